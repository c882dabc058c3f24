"""The stage: its files, and that they do not depend on how the work was cut or interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core.artifacts.proposals import ProposalRow, Proposals
from soco_core.artifacts.result import ResultDirectory, open_result
from soco_core.config import Recipe
from soco_core.errors import InputError, ResultLockedError, SocoError
from soco_core.proposals import shards as shards_module
from soco_core.proposals.shards import Journal, cut
from soco_core.proposals.stage import merge_shards, propose, propose_shard
from soco_core.proposals.workers import Workers
from soco_core.recipes import parse_recipe

MakeImages = Callable[..., Path]

PROPOSE = """
import sys
from soco_core.recipes import parse_recipe
from soco_core.proposals.stage import propose

if __name__ == "__main__":
    recipe = parse_recipe("runtime: {workers: %s}" % sys.argv[3])
    propose(recipe, images=sys.argv[1], output=sys.argv[2])
"""


def files(result: ResultDirectory) -> dict[str, bytes]:
    """What the result holds, but for the recipe, which states the number of workers."""
    return {
        name: (result.path / name).read_bytes()
        for name in [*json.loads((result.path / "done.json").read_text())["files"], "manifest.json"]
        if name != "config.yaml"
    }


def start(tmp_path: Path, images: Path, output: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start `propose` in a session of its own; what it says goes to ``said.txt``.

    Not to a pipe: a worker that outlived it would keep that open, and the test waiting.
    """
    script = tmp_path / "propose.py"
    script.write_text(PROPOSE)
    command = [sys.executable, str(script), str(images), str(output), str(workers)]
    with (tmp_path / "said.txt").open("wb") as said:
        return subprocess.Popen(command, stderr=said, start_new_session=True)


def wait_for_lines(output: Path, lines: int) -> Path:
    """Wait until a journal has some lines; return it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in output.glob("proposals/*/shards/*.jsonl"):
            if journal.read_bytes().count(b"\n") >= lines:
                return journal
        time.sleep(0.02)
    raise AssertionError("no image was finished in time")


def processes_of_group(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(entry.name))
    return found


def wait_for_end_of_group(group: int) -> None:
    """Wait until the workers of a process that is gone have ended by themselves."""
    deadline = time.monotonic() + 20
    while left := processes_of_group(group):
        if time.monotonic() > deadline:
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise AssertionError("a worker outlived its parent")
        time.sleep(0.05)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that selective search worked on for this process."""
    ids: list[str] = []
    original = Workers.rows

    def rows(self: Workers, wanted: Sequence[str]) -> Iterator[ProposalRow]:
        for row in original(self, wanted):
            ids.append(row.id)
            yield row

    monkeypatch.setattr(Workers, "rows", rows)
    return ids


def test_the_result_and_that_it_is_the_cache(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(5)
    result = propose(recipe, images=str(images), output=str(tmp_path / "out"))
    assert len(counted) == 5
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["image_set"]["root"] == str(images)
    assert manifest["parameters"]["scale"] == 500
    assert result.summary["images"] == 5
    assert result.summary["bad_images"] == 0
    assert sum(result.summary["kept_by"].values()) == 5
    assert sorted(files(result)) == [
        "figures/proposals.png",
        "figures/proposals_histogram.png",
        "kept.arrow",
        "manifest.json",
        "tables/00000.parquet",
    ]
    proposals = Proposals.open(open_result(result.uri, "proposals"))
    assert [proposals.id(i) for i in range(5)] == sorted(
        p.relative_to(images).as_posix() for p in images.rglob("*.png")
    )
    assert proposals.size(0) == (72, 54)
    assert proposals.counts().mean() == pytest.approx(result.summary["boxes_per_image"], abs=1e-4)

    capsys.readouterr()
    again = propose(recipe, images=str(images), output=str(tmp_path / "out"), shards=3)
    assert again.uri == result.uri
    assert len(counted) == 5
    assert "already done" in capsys.readouterr().err
    assert propose_shard(recipe, images=str(images), output=str(tmp_path / "out"), index=0, count=2) == result.uri
    assert len(counted) == 5


def test_parameters_and_images_name_the_result_and_the_seed_does_not(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe
) -> None:
    images = make_images(2)

    def uri(text: str) -> str:
        changed = parse_recipe(f"{{runtime: {{workers: 0}}, {text}}}")
        return propose_shard(changed, images=str(images), output=str(tmp_path / "out"), index=0, count=1)

    first = uri("seed: 0")
    assert uri("seed: 1") == first
    assert uri("proposals: {scale: 400}") != first
    Image.new("RGB", (8, 8)).save(images / "new.png")
    assert uri("seed: 0") != first


def test_shards_and_workers_leave_no_trace_in_the_result(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str]
) -> None:
    images = make_images(7)
    whole = propose(recipe, images=str(images), output=str(tmp_path / "whole"))
    expected = files(whole)

    two = parse_recipe("runtime: {workers: 2}")
    assert files(propose(two, images=str(images), output=str(tmp_path / "two"), shards=2)) == expected

    output = str(tmp_path / "apart")
    counted.clear()
    propose_shard(recipe, images=str(images), output=output, index=2, count=5)  # of another cut, left over
    for index in (2, 0, 1):
        propose_shard(recipe, images=str(images), output=output, index=index, count=3)
    assert len(counted) == 2 + 7
    assert files(merge_shards(recipe, images=str(images), output=output, count=3)) == expected
    assert (len(counted), whole.fingerprint) == (9, Path(whole.uri).name)


def test_the_order_in_which_images_are_finished_leaves_no_trace(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(5)
    expected = files(propose(recipe, images=str(images), output=str(tmp_path / "sorted")))
    original = Workers.rows

    def backwards(self: Workers, wanted: Sequence[str]) -> Iterator[ProposalRow]:
        return reversed(list(original(self, wanted)))

    monkeypatch.setattr(Workers, "rows", backwards)
    assert files(propose(recipe, images=str(images), output=str(tmp_path / "backwards"))) == expected


def test_more_shards_than_images(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(2)
    result = propose(recipe, images=str(images), output=str(tmp_path / "out"), shards=5)
    assert result.summary["images"] == 2


def test_shards_are_contiguous_and_even(tmp_path: Path) -> None:
    result = ResultDirectory(str(tmp_path), tmp_path, "f", "proposals", {})
    ids = tuple("abcdefgh")
    pieces = cut(result, ids, 3)
    assert sum((piece.ids for piece in pieces), ()) == ids
    assert sorted(len(piece.ids) for piece in pieces) == [2, 3, 3]
    assert pieces[2].table == tmp_path / "shards" / "00002-of-00003.parquet"


def test_killed_in_the_middle_of_a_shard_it_goes_on_to_the_same_files(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str]
) -> None:
    images = make_images(24, 200, 150)
    output = tmp_path / "killed"
    running = start(tmp_path, images, output, workers=1)
    journal = wait_for_lines(output, 3)
    running.kill()
    running.wait()
    wait_for_end_of_group(running.pid)

    lines = journal.read_bytes().splitlines(keepends=True)
    done = [json.loads(line)["id"] for line in lines if line.endswith(b"\n")]
    assert 3 <= len(done) < 24
    journal.write_bytes(b"".join(lines) + b'{"id": "0/cut')  # a line that the kill cut short
    resumed = propose(recipe, images=str(images), output=str(output))
    assert sorted(counted + done) == sorted(p.relative_to(images).as_posix() for p in images.rglob("*.png"))
    assert not journal.exists()
    assert files(resumed) == files(propose(recipe, images=str(images), output=str(tmp_path / "unbroken")))


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    def row(name: str) -> ProposalRow:
        return ProposalRow(name, 9, 8, np.array([[0, 1 / 3, 9, 8]], np.float32), "strict", reduced=True)

    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add(row("a"))
    whole = (tmp_path / "j.jsonl").read_bytes()
    for cut_short in (whole[:20], whole[:-1]):  # the second lacks its end of line only
        (tmp_path / "j.jsonl").write_bytes(whole + cut_short)
        with Journal(tmp_path / "j.jsonl") as journal:
            assert list(journal.rows) == ["a"]
            journal.add(row("b"))
        with Journal(tmp_path / "j.jsonl") as journal:
            assert list(journal.rows) == ["a", "b"]
            np.testing.assert_array_equal(journal.rows["b"].boxes, row("b").boxes)
            assert vars(journal.rows["b"]).keys() == vars(row("b")).keys()
            assert journal.rows["b"].reduced


def test_ctrl_c_ends_it_at_once_with_its_work_kept(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(60, 200, 150)
    running = start(tmp_path, images, tmp_path / "out", workers=1)
    journal = wait_for_lines(tmp_path / "out", 2)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(timeout=60) != 0
    errors = (tmp_path / "said.txt").read_text()
    assert "InterruptedStageError: stopped by SIGINT" in errors
    assert "images of shard 00000-of-00001 are kept" in errors
    assert "KeyboardInterrupt" not in errors
    assert journal.read_bytes().count(b"\n") >= 2
    wait_for_end_of_group(running.pid)


def test_a_dead_worker_is_said_and_the_work_kept(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(30, 200, 150)

    def add(self: Journal, row: ProposalRow) -> None:
        original(self, row)
        if len(self.rows) == 2:
            import multiprocessing

            multiprocessing.active_children()[0].kill()

    original = Journal.add
    monkeypatch.setattr(Journal, "add", add)
    with pytest.raises(SocoError, match=r"a worker process died at one of .*\.png"):
        propose(parse_recipe("runtime: {workers: 1}"), images=str(images), output=str(tmp_path / "out"))
    monkeypatch.setattr(Journal, "add", original)
    assert propose(recipe, images=str(images), output=str(tmp_path / "out")).summary["images"] == 30


def test_missing_shards_are_named(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(4)
    output = str(tmp_path / "out")
    propose_shard(recipe, images=str(images), output=output, index=1, count=4)
    with pytest.raises(
        InputError, match=r"not finished: shard 1/4, 3/4, 4/4; run `soco propose --shard 1/4`"
    ) as caught:
        merge_shards(recipe, images=str(images), output=output, count=4)
    assert "\n" not in str(caught.value)


def test_a_shard_with_the_wrong_rows_is_refused(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(4)
    output = str(tmp_path / "out")
    folder = Path(propose_shard(recipe, images=str(images), output=output, index=0, count=2)) / "shards"
    (folder / "00001-of-00002.parquet").write_bytes((folder / "00000-of-00002.parquet").read_bytes())
    with pytest.raises(InputError, match=r"00001-of-00002\.parquet: does not hold the images of its shard"):
        merge_shards(recipe, images=str(images), output=output, count=2)


@pytest.mark.parametrize(("index", "count", "wanted"), [(2, 2, "from 0 to 1"), (-1, 2, "from 0"), (0, 0, "1 or more")])
def test_shards_that_do_not_exist(
    index: int, count: int, wanted: str, make_images: MakeImages, tmp_path: Path, recipe: Recipe
) -> None:
    with pytest.raises(InputError, match=wanted):
        propose_shard(recipe, images=str(make_images(1)), output=str(tmp_path / "out"), index=index, count=count)
    assert not (tmp_path / "out").exists()


def test_a_second_writer_of_a_shard_is_kept_out_and_of_another_shard_is_not(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(4)
    output = str(tmp_path / "out")
    original = Journal.add
    refused = []

    def add(self: Journal, row: ProposalRow) -> None:
        monkeypatch.setattr(Journal, "add", original)
        with pytest.raises(ResultLockedError, match="00000-of-00002") as caught:
            propose_shard(recipe, images=str(images), output=output, index=0, count=2)
        refused.append(caught.value)
        propose_shard(recipe, images=str(images), output=output, index=1, count=2)
        original(self, row)

    monkeypatch.setattr(Journal, "add", add)
    propose_shard(recipe, images=str(images), output=output, index=0, count=2)
    assert len(refused) == 1
    assert merge_shards(recipe, images=str(images), output=output, count=2).summary["images"] == 4


def test_bad_files_are_named_and_stop_nothing(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(3)
    Image.new("CMYK", (40, 30), (0, 80, 160, 20)).save(images / "cmyk.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(noise).save(images / "rgba.png")
    Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]).save(images / "sixteen.png")
    Image.fromarray(noise[..., 0]).convert("P").save(images / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(images / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(images / "one.png")
    data = (images / "turned.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(data[: len(data) // 2])
    for k in range(10):
        (images / f"empty{k}.jpg").write_bytes(b"")

    result = propose(recipe, images=str(images), output=str(tmp_path / "out"), shards=2)
    assert (result.summary["images"], result.summary["bad_images"]) == (9, 11)
    said = next(line for line in capsys.readouterr().err.splitlines() if "could not be decoded" in line)
    assert said.startswith("proposals: 11 of 20 images could not be decoded: cut.jpg (image file is truncated")
    assert "empty8.jpg (empty file) and 1 more;" in said
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert [entry["id"] for entry in manifest["bad_images"]] == ["cut.jpg", *(f"empty{k}.jpg" for k in range(10))]

    proposals = Proposals.open(result)
    sizes = {proposals.id(i): proposals.size(i) for i in range(len(proposals))}
    assert sizes["turned.jpg"] == (30, 40)
    assert sizes["cmyk.jpg"] == sizes["rgba.png"] == sizes["sixteen.png"] == sizes["palette.png"] == (40, 30)
    assert sizes["one.png"] == (1, 1)
    for i in range(len(proposals)):
        assert len(proposals.boxes(i)) >= 1
        assert (proposals.boxes(i)[:, :2] >= 0).all()
        assert (proposals.boxes(i)[:, 2:] <= proposals.size(i)).all()


def test_a_set_without_any_good_image(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_bytes(b"no image")
    (tmp_path / "set" / "b.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 2 images .* \(the first, a\.jpg: not an image"):
        propose(recipe, images=str(tmp_path / "set"), output=str(tmp_path / "out"))


def test_the_files_that_break_loaders(shared_data: Path, tmp_path: Path, recipe: Recipe) -> None:
    folder = shared_data / "nasty"
    result = propose(recipe, images=str(folder), output=str(tmp_path))
    manifest = json.loads((result.path / "manifest.json").read_text())
    proposals = Proposals.open(result)
    numbers = {proposals.id(i): i for i in range(len(proposals))}
    entries = json.loads((folder / "index.json").read_text())
    bad = [entry["file"] for entry in entries if entry["pil_load"] != "ok"]
    assert sorted(entry["id"] for entry in manifest["bad_images"]) == sorted(bad)
    assert all(entry["reason"] for entry in manifest["bad_images"])
    assert len(numbers) == len(entries) - len(bad)
    for entry in entries:
        if entry["file"] in bad:
            continue
        width, height = entry["size"]
        upright = (height, width) if entry["exif_orientation"] in {5, 6, 7, 8} else (width, height)
        number = numbers[entry["file"]]
        assert proposals.size(number) == upright, entry["file"]
        assert (proposals.boxes(number)[:, :2] >= 0).all()
        assert (proposals.boxes(number)[:, 2:] <= upright).all()
    assert proposals.kept_by(numbers["flat_color.jpg"]) != "strict"
    assert manifest["reduced_images"] == ["exif3_landscape.jpg", "exif8_landscape.jpg"]


def test_on_s3_another_machine_goes_on(
    make_images: MakeImages,
    tmp_path: Path,
    recipe: Recipe,
    s3: str,
    counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = make_images(4)
    expected = files(propose(recipe, images=str(images), output=str(tmp_path / "local")))
    output = f"{s3}/results"
    monkeypatch.setattr(shards_module, "PUBLISH_SECONDS", 0.0)

    def fail_at_second(self: Journal, row: ProposalRow) -> None:
        if self.rows:
            raise MemoryError
        original(self, row)

    original = Journal.add
    monkeypatch.setattr(Journal, "add", fail_at_second)
    with pytest.raises(MemoryError):
        propose_shard(recipe, images=str(images), output=output, index=0, count=1)
    monkeypatch.setattr(Journal, "add", original)

    counted.clear()
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "another machine"))
    propose_shard(recipe, images=str(images), output=output, index=0, count=1)
    assert len(counted) == 3
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "a third"))
    merged = merge_shards(recipe, images=str(images), output=output, count=1)
    assert len(counted) == 3
    assert files(merged) == expected
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "a reader"))
    assert len(Proposals.open(open_result(merged.uri, "proposals"))) == 4

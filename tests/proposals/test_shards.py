"""Shards: how the work is cut, resumed and locked, and that none of it can be seen in the result."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from soco_core.artifacts.lock import local_lock
from soco_core.artifacts.proposals import ProposalRow
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.errors import InputError, ResultLockedError
from soco_core.proposals import shards as shards_module
from soco_core.proposals.shards import Journal, cut
from soco_core.proposals.stage import merge_shards, propose, propose_shard
from soco_core.proposals.workers import Workers
from soco_core.recipes import parse_recipe
from tests.proposals.conftest import MakeImages, files, names_of, start, wait_for_end_of_group, wait_for_lines


def test_shards_are_contiguous_and_even(tmp_path: Path) -> None:
    result = ResultDirectory(str(tmp_path), tmp_path, "f", "proposals", {})
    pieces = cut(result, 8, 3)
    assert [number for piece in pieces for number in piece.images] == list(range(8))
    assert sorted(len(piece.images) for piece in pieces) == [2, 3, 3]
    assert pieces[2].table == tmp_path / "shards" / "00002-of-00003.parquet"


def test_shards_and_workers_leave_no_trace_in_the_result(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str]
) -> None:
    images = make_images(7)
    whole = propose(recipe, images=str(images), output=str(tmp_path / "whole"))
    expected = files(whole)

    two = parse_recipe("runtime: {search_workers: 2}")
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


def test_killed_in_the_middle_of_a_shard_it_redoes_no_image(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str]
) -> None:
    images = make_images(24, 200, 150)
    output = tmp_path / "killed"
    running = start(["--images", images, "--output", output, "--workers", "1"], tmp_path / "said.txt")
    journal = wait_for_lines(output, 3)
    running.kill()
    running.wait()
    wait_for_end_of_group(running.pid)

    lines = journal.read_bytes().splitlines(keepends=True)
    done = [json.loads(line)["id"] for line in lines if line.endswith(b"\n")]
    assert 3 <= len(done) < 24
    journal.write_bytes(b"".join(lines) + b'{"id": "0/cut')  # a line that the kill cut short
    resumed = propose(recipe, images=str(images), output=str(output))
    assert sorted(counted + done) == names_of(images)
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
    running = start(["--images", images, "--output", tmp_path / "out", "--workers", "1"], tmp_path / "said.txt")
    journal = wait_for_lines(tmp_path / "out", 2)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(timeout=60) == 130
    last = (tmp_path / "said.txt").read_text().splitlines()[-1]
    assert last.startswith("stopped by SIGINT; ")
    assert last.endswith("of 60 images of shard 00000-of-00001 are kept. Run the same command to go on")
    assert journal.read_bytes().count(b"\n") >= 2
    wait_for_end_of_group(running.pid)


def test_two_workers_on_one_shard_do_no_harm(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(20, 160, 120)
    output = tmp_path / "out"
    arguments = ["--images", images, "--output", output, "--workers", "0", "--shard", "1/2"]
    both = [start(arguments, tmp_path / f"said{k}.txt") for k in range(2)]
    codes = [running.wait(timeout=120) for running in both]
    said = [(tmp_path / f"said{k}.txt").read_text() for k in range(2)]
    assert 0 in codes, said
    for code, text in zip(codes, said, strict=True):
        # It waits for a moment, and either finds the shard done by then or is refused.
        line = text.splitlines()[-1]
        assert (code == 2 and "shard 00000-of-00002" in line and "is being written by" in line) or (
            code == 0 and line.startswith(str(output))
        ), text
    propose_shard(recipe, images=str(images), output=str(output), index=1, count=2)
    merged = merge_shards(recipe, images=str(images), output=str(output), count=2)
    assert files(merged) == files(propose(recipe, images=str(images), output=str(tmp_path / "alone")))


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


def test_a_shard_that_comes_too_late_leaves_nothing(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker does all the work, and merges, while this one is about to begin or about to end."""
    images = make_images(4)
    for moment, searched in (("fetch", 4), ("write_rows", 8)):
        counted.clear()
        output = str(tmp_path / moment)
        place = shards_module.Shard if moment == "fetch" else shards_module
        original = getattr(place, moment)

        def meanwhile(*arguments: object, output=output, place=place, moment=moment, original=original) -> None:
            monkeypatch.setattr(place, moment, original)
            propose(recipe, images=str(images), output=output, shards=2)
            original(*arguments)

        monkeypatch.setattr(place, moment, meanwhile)
        late = propose_shard(recipe, images=str(images), output=output, index=0, count=1)
        assert Path(late, "done.json").exists()
        assert len(counted) == searched
        assert not [path for path in Path(late, "shards").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(("index", "count", "wanted"), [(2, 2, "from 0 to 1"), (-1, 2, "from 0"), (0, 0, "1 or more")])
def test_shards_that_do_not_exist(
    index: int, count: int, wanted: str, make_images: MakeImages, tmp_path: Path, recipe: Recipe
) -> None:
    with pytest.raises(InputError, match=wanted):
        propose_shard(recipe, images=str(make_images(1)), output=str(tmp_path / "out"), index=index, count=count)
    assert not (tmp_path / "out").exists()


def test_a_finished_shard_and_a_locked_one_show_no_progress(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"images": str(make_images(4)), "output": str(tmp_path / "out"), "index": 1, "count": 2}
    folder = Path(propose_shard(recipe, **arguments)) / "shards"
    assert "proposals: 2/2 images" in capsys.readouterr().err
    propose_shard(recipe, **arguments)
    assert capsys.readouterr().err == "shard 2/2: already done\n"
    with local_lock(folder / ".00000-of-00002" / "lock", "x"), pytest.raises(ResultLockedError):
        propose_shard(recipe, **arguments | {"index": 0})
    assert capsys.readouterr().err == ""

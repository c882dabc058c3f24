"""Images and results on S3: the same rows as from disk, whatever the network does on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from soco_core import storage
from soco_core.artifacts.proposals import ProposalRow, Proposals
from soco_core.artifacts.result import ResultDirectory, open_result
from soco_core.config import ImagesConfig, Recipe
from soco_core.images.packing import pack
from soco_core.proposals import shards as shards_module
from soco_core.proposals.shards import Journal
from soco_core.proposals.stage import merge_shards, plan_shards, propose, propose_shard
from soco_core.recipes import parse_recipe
from tests.conftest import FaultyStore
from tests.proposals.conftest import MakeImages, files, start


def boxes_of(result: ResultDirectory) -> dict[str, bytes]:
    """The files that say nothing of where the images lay."""
    return {
        name: data for name, data in files(result).items() if name not in {"manifest.json", "figures/proposals.png"}
    }


def put(images: Path, uri: str) -> str:
    for path in images.rglob("*.*"):
        storage.upload(path, f"{uri}/{path.relative_to(images).as_posix()}")
    return uri


def keys(uri: str) -> list[str]:
    return [key for key, _ in storage.list_objects(uri)]


@pytest.mark.parametrize("workers", [0, 2])
def test_from_a_folder_and_a_pack_on_s3_the_rows_are_those_from_disk(
    workers: int, make_images: MakeImages, tmp_path: Path, recipe: Recipe, s3: str
) -> None:
    images = make_images(9)
    (images / "bad.png").write_bytes(b"no image")
    expected = propose(recipe, images=str(images), output=str(tmp_path / "disk"))
    folder = put(images, f"{s3}/set")
    pack(ImagesConfig(), images=folder, output=f"{s3}/packed", shard_size=20_000)
    pack(ImagesConfig(), images=str(images), output=str(tmp_path / "packed"), shard_size=20_000)

    there = parse_recipe(f"runtime: {{search_workers: {workers}}}")
    for number, place in enumerate((folder, f"{s3}/packed", str(tmp_path / "packed"))):
        result = propose(there, images=place, output=str(tmp_path / f"out{number}"), shards=2)
        assert result.fingerprint == expected.fingerprint
        assert boxes_of(result) == boxes_of(expected)
        assert Proposals.open(result).image_set == place


def test_what_breaks_on_the_way_is_tried_again(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, faulty_s3: FaultyStore
) -> None:
    images = make_images(6)
    expected = boxes_of(propose(recipe, images=str(images), output=str(tmp_path / "disk")))
    folder = put(images, f"{faulty_s3.uri}/set")
    pack(ImagesConfig(), images=str(images), output=f"{faulty_s3.uri}/packed", shard_size=10**6)
    quick = parse_recipe("{images: {fingerprint: sizes}, runtime: {search_workers: 0}}")
    for number, (place, key) in enumerate({folder: r"0/003\.png$", f"{faulty_s3.uri}/packed": r"\.tar$"}.items()):
        faulty_s3.requests.clear()
        faulty_s3.fail(key, "drop")
        faulty_s3.fail(key, 500)
        result = propose(quick, images=place, output=f"{faulty_s3.uri}/results{number}")
        assert boxes_of(result) == expected
        assert [fault.times for fault in faulty_s3.faults] == [0, 0]
        faulty_s3.faults.clear()


def test_a_store_that_stays_ill_ends_it_with_the_work_kept(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, faulty_s3: FaultyStore, counted: list[str]
) -> None:
    images = make_images(6)
    folder = put(images, f"{faulty_s3.uri}/set")
    quick = "{images: {fingerprint: sizes}, runtime: {search_workers: 0}}"
    faulty_s3.fail(r"2/005\.png$", 403, times=-1)
    with pytest.raises(storage.InputError, match=r"^s3://.*2/005\.png: the S3 store answered AccessDenied") as caught:
        propose(parse_recipe(quick), images=folder, output=str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert len(counted) == 5
    faulty_s3.faults.clear()
    assert propose(parse_recipe(quick), images=folder, output=str(tmp_path / "out")).summary["images"] == 6
    assert len(counted) == 6


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--images", "s3://no-such-bucket/set", "--output", "{tmp}"], ["s3://no-such-bucket", "NoSuchBucket"]),
        (["--images", "{images}", "--output", "s3://no-such-bucket/out"], ["s3://no-such-bucket/out", "NoSuchBucket"]),
        (["--images", "{s3}/empty", "--output", "{tmp}"], ["{s3}/empty", "image"]),
        (["--images", "{s3}/refused", "--output", "{tmp}"], ["{s3}/refused", "AccessDenied", "credentials"]),
        (["--images", "{images}", "--output", "{s3}/refused"], ["{s3}/refused", "credentials"]),
    ],
)
def test_what_the_store_refuses_is_one_line(
    arguments: list[str], wanted: list[str], make_images: MakeImages, tmp_path: Path, faulty_s3: FaultyStore
) -> None:
    put(make_images(1), f"{faulty_s3.uri}/refused")
    for method in ("GET", "HEAD", "PUT"):
        faulty_s3.fail("^refused/", 403, times=-1, method=method)
    places = {"tmp": tmp_path / "out", "s3": faulty_s3.uri, "images": tmp_path / "images"}
    said = tmp_path / "said.txt"
    code = start([argument.format(**places) for argument in arguments], said).wait(timeout=120)
    lines = said.read_text().splitlines()
    assert code == 2, lines
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(text.format(**places) in lines[0] for text in wanted), lines
    assert "refused" not in " ".join(arguments) or "NoSuch" not in lines[0]


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


def test_a_planned_run_on_machines_of_their_own(
    make_images: MakeImages,
    tmp_path: Path,
    recipe: Recipe,
    faulty_s3: FaultyStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = make_images(8)
    expected = propose(recipe, images=str(images), output=str(tmp_path / "disk"))
    folder = put(images, f"{faulty_s3.uri}/set")
    arguments = {"images": folder, "output": f"{faulty_s3.uri}/results", "count": 4}

    def move_to(machine: str) -> None:
        monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / machine))
        faulty_s3.requests.clear()

    plan = plan_shards(recipe, **arguments)
    assert plan == f"{faulty_s3.uri}/results/proposals/{expected.fingerprint}/shards/plan.json"
    for machine, indices in {"one": (2, 0), "two": (1, 3)}.items():
        move_to(machine)
        for index in indices:
            propose_shard(recipe, **arguments, index=index, plan=plan)
        assert faulty_s3.count(r"^set/.*png$") == 4, "a shard reads its own images, each once"
        assert faulty_s3.count(r"images\.arrow$") == 1
        assert not [request for request in faulty_s3.requests if request.method == "GET" and not request.key]
    move_to("three")
    merged = merge_shards(recipe, **arguments, plan=plan)
    assert boxes_of(merged) == boxes_of(expected)
    assert not [key for key in keys(merged.uri) if key.startswith("shards/")]
    assert "done.json" in keys(merged.uri)
    move_to("four")
    assert propose_shard(recipe, **arguments, index=0, plan=plan) == merged.uri
    assert faulty_s3.count(r"^set/.*png$") == 0


def test_a_shard_that_was_killed_before_it_was_published_is_published_later(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(2)
    arguments = {"images": str(images), "output": f"{s3}/results"}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "_publish", die)
        with pytest.raises(KeyboardInterrupt):
            propose_shard(recipe, **arguments, index=0, count=1)
    propose_shard(recipe, **arguments, index=0, count=1)
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "another machine"))
    assert merge_shards(recipe, **arguments, count=1).summary["images"] == 2


def test_a_boxes_file_on_s3_is_fetched_and_converted_once(
    make_images: MakeImages, tmp_path: Path, faulty_s3: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(4)
    boxes = f"{faulty_s3.uri}/boxes.json"
    storage.write_text(boxes, '{"000": [[1, 1, 30, 30]], "001": [[1, 1, 30, 30]], "002": [], "003": [[2, 2, 20, 40]]}')
    recipe = parse_recipe(f"{{runtime: {{search_workers: 0}}, proposals: {{engine: import, boxes_file: '{boxes}'}}}}")
    arguments = {"images": str(images), "output": f"{faulty_s3.uri}/results", "count": 2}
    faulty_s3.fail(r"boxes\.json$", "drop")
    plan = plan_shards(recipe, **arguments)
    for index in range(2):
        monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / f"machine {index}"))
        faulty_s3.requests.clear()
        propose_shard(recipe, **arguments, index=index, plan=plan)
        assert (faulty_s3.count(r"boxes\.json$"), faulty_s3.count(r"imported\.arrow$")) == (0, 1)
    merged = merge_shards(recipe, **arguments, plan=plan)
    assert merged.summary["kept_by"] == {"strict": 3, "aspect_ratio": 0, "min_side": 0, "whole_image": 1}
    assert not [key for key in keys(merged.uri) if key.startswith("shards/")]


@pytest.mark.parametrize("whole", [True, False], ids=["propose", "shard"])
@pytest.mark.parametrize("newer", ["here", "published"])
def test_the_longer_journal_is_gone_on_with(
    newer: str,
    whole: bool,
    make_images: MakeImages,
    recipe: Recipe,
    s3: str,
    counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = {"images": str(make_images(4)), "output": f"{s3}/results"}

    def run() -> str:
        return propose(recipe, **arguments).uri if whole else propose_shard(recipe, **arguments, index=0, count=1)

    original = Journal.add

    def fail_at_fourth(self: Journal, row: ProposalRow) -> None:
        if len(self.rows) == 3:
            raise MemoryError
        original(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", fail_at_fourth)
        with pytest.raises(MemoryError):
            run()
    (uri,) = {f"{s3}/results/proposals/{path.parts[-3]}" for path in storage.scratch_path(s3).rglob("*.jsonl")}
    journal = f"{uri}/shards/00000-of-00001.jsonl"
    here = storage.scratch_path(journal)
    lines = here.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    published, kept = (lines[:1], lines) if newer == "here" else (lines, lines[:1])
    storage.write_bytes(journal, b"".join(published))
    here.write_bytes(b"".join(kept))
    counted.clear()
    assert run() == uri
    assert len(counted) == 1, "the three images of the longer journal are not done again"
    assert not storage.exists(journal)

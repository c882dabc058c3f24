"""The merge: every image of the set once, or it says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soco_core.artifacts import result as result_module
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.proposals import merge as merge_module
from soco_core.proposals.stage import merge_shards, plan_shards, propose, propose_shard
from tests.proposals.conftest import MakeImages, files


def test_missing_shards_are_named(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(4)
    output = str(tmp_path / "out")
    propose_shard(recipe, images=str(images), output=output, index=1, count=4)
    with pytest.raises(
        InputError, match=r"not finished: shard 1/4, 3/4, 4/4; run `soco propose --shard 1/4`"
    ) as caught:
        merge_shards(recipe, images=str(images), output=output, count=4)
    assert "\n" not in str(caught.value)
    plan = plan_shards(recipe, images=str(images), output=output, count=4)
    with pytest.raises(InputError, match="not finished: shard 1/4, 3/4, 4/4;"):
        merge_shards(recipe, images=str(images), output=output, count=4, plan=plan)


def test_of_many_missing_shards_the_first_are_named(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"shard 1/40, 2/40, .*, 10/40 and 30 more; run"):
        merge_shards(recipe, images=str(make_images(1)), output=str(tmp_path / "out"), count=40)


def test_shards_of_another_number_do_not_count(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(8)
    output = str(tmp_path / "out")
    for index in (0, 1):
        folder = Path(propose_shard(recipe, images=str(images), output=output, index=index, count=4)) / "shards"
    (folder / "00002-of-00003.jsonl").touch()
    with pytest.raises(
        InputError,
        match=r"not finished: shard 1/8, 2/8, 3/8, 4/8, 5/8, 6/8, 7/8, 8/8; .*finished shards of 4, begun sh.* 3\)$",
    ):
        merge_shards(recipe, images=str(images), output=output, count=8)
    for index in range(8):
        propose_shard(recipe, images=str(images), output=output, index=index, count=8)
    merged = merge_shards(recipe, images=str(images), output=output, count=8)
    assert files(merged) == files(propose(recipe, images=str(images), output=str(tmp_path / "whole")))
    assert not list((merged.path / "shards").iterdir()), "neither tables nor locks"


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([4, 5, 6], r"2/005\.png is missing"),
        ([4, 5, 6, 7, 7], r"2/005\.png is there twice"),
        ([4, 5, 7, 6], "in another order"),
        ([0, 1, 2, 3], r"1/004\.png, 1/007\.png, 2/002\.png, 2/005\.png is missing"),
        ([3, 4, 5, 6, 7], r"1/001\.png does not belong there"),
    ],
)
def test_a_shard_with_the_wrong_rows_is_refused(
    rows: list[int], wanted: str, make_images: MakeImages, tmp_path: Path, recipe: Recipe
) -> None:
    images = make_images(8)
    output = str(tmp_path / "out")
    for index in (0, 1):
        folder = Path(propose_shard(recipe, images=str(images), output=output, index=index, count=2)) / "shards"
    tables = [folder / f"0000{index}-of-00002.parquet" for index in (0, 1)]
    everything = pa.concat_tables([pq.read_table(table) for table in tables])
    pq.write_table(everything.take(rows), tables[1])
    with pytest.raises(InputError, match=r"00001-of-00002\.parquet: does not hold the images of its shard") as caught:
        merge_shards(recipe, images=str(images), output=output, count=2)
    assert caught.match(wanted)
    assert caught.match("run `soco propose --shard 2/2` again")
    tables[1].unlink()
    propose_shard(recipe, images=str(images), output=output, index=1, count=2)
    assert merge_shards(recipe, images=str(images), output=output, count=2).summary["images"] == 8


def test_a_damaged_shard_is_named(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(2)
    output = str(tmp_path / "out")
    folder = Path(propose_shard(recipe, images=str(images), output=output, index=0, count=1)) / "shards"
    table = folder / "00000-of-00001.parquet"
    table.write_bytes(table.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"00000-of-00001\.parquet: damaged"):
        merge_shards(recipe, images=str(images), output=output, count=1)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("moment", ["write_merged", "draw_contact_sheet", "draw_histograms", "write_text"])
def test_a_merge_that_was_cut_short_is_completed(
    moment: str, planned: bool, make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(5)
    arguments = {"images": str(images), "output": str(tmp_path / "out"), "count": 2}
    plan = plan_shards(recipe, **arguments) if planned else None
    for index in (0, 1):
        propose_shard(recipe, **arguments, index=index, plan=plan)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "write_text":  # of done.json
            original = result_module.storage.write_text
            patch.setattr(
                result_module.storage,
                "write_text",
                lambda p, t: die() if Path(p).name == "done.json" else original(p, t),
            )
        else:
            patch.setattr(merge_module, moment, die)
        with pytest.raises(KeyboardInterrupt):
            merge_shards(recipe, **arguments, plan=plan)
    propose_shard(recipe, **arguments, index=0, plan=plan)  # a worker that is started again does no harm
    merged = merge_shards(recipe, **arguments, plan=plan)
    assert files(merged) == files(propose(recipe, images=str(images), output=str(tmp_path / "whole")))
    assert propose_shard(recipe, **arguments, index=1, plan=plan) == merged.uri
    assert merge_shards(recipe, **arguments, plan=plan).done == json.loads((merged.path / "done.json").read_text())

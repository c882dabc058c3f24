from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soco_core.artifacts import proposals as module
from soco_core.artifacts.proposals import (
    ProposalRow,
    Proposals,
    intact_manifest,
    read_rows,
    write_merged,
    write_rows,
)
from soco_core.errors import InputError

NONE = np.zeros((0, 4), np.float32)
ROWS = [
    ProposalRow("a.jpg", 40, 30, np.array([[0, 0, 20, 15], [1.5, 2, 21.25, 15]], np.float32), "strict", reduced=True),
    ProposalRow("b/ä.jpg", 0, 0, NONE, None, error="empty file"),
    ProposalRow("c.jpg", 8, 4, np.array([[0, 0, 8, 4]], np.float32), "whole_image"),
    ProposalRow("d.jpg", 5, 6, np.array([[0, 0, 5, 6], [0, 0, 5, 5], [1, 1, 5, 5]], np.float32), "aspect_ratio"),
]
HEADER = {
    "image_set": {
        "root": "s3://data/set",
        "layout": "coco",
        "splits": ["train2017", "unlabeled2017"],
        "subset": "10%",
        "fingerprint": "f" * 16,
        "fingerprint_mode": "contents",
        "images": 4,
    },
    "parameters": {"scale": 500},
    "search": {"engine": "exact", "numba": "0"},
}


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.parquet", ROWS)
    write_merged(tmp_path, read_rows(tmp_path / "rows.parquet"), HEADER)
    return tmp_path


def test_rows_survive_parquet(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", ROWS)
    back = read_rows(tmp_path / "rows.parquet").to_pylist()
    assert [ProposalRow(**{**row, "boxes": np.array(row["boxes"])}).id for row in back] == [row.id for row in ROWS]
    assert back[0]["boxes"] == [[0, 0, 20, 15], [1.5, 2, 21.25, 15]]
    assert back[1] == {
        "id": "b/ä.jpg",
        "width": 0,
        "height": 0,
        "boxes": [],
        "kept_by": None,
        "reduced": False,
        "error": "empty file",
    }
    assert pq.ParquetFile(tmp_path / "rows.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_shard_without_rows_survives_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "none.parquet", [])
    write_rows(tmp_path / "rows.parquet", ROWS)
    none, rows = read_rows(tmp_path / "none.parquet"), read_rows(tmp_path / "rows.parquet")
    assert len(none) == 0
    assert pa.concat_tables([none, rows]).schema == rows.schema


def test_the_reader_gives_the_good_images(merged: Path) -> None:
    proposals = Proposals(merged)
    good = [row for row in ROWS if row.error is None]
    assert len(proposals) == 3
    assert proposals.image_set == "s3://data/set"
    assert (proposals.layout, proposals.splits, proposals.subset) == ("coco", ("train2017", "unlabeled2017"), "10%")
    assert proposals.engine == "exact"
    assert proposals.image_set_fingerprint == "f" * 16
    assert proposals.fingerprint_mode == "contents"
    for i, row in enumerate(good):
        assert (proposals.id(i), proposals.size(i), proposals.kept_by(i)) == (
            row.id,
            (row.width, row.height),
            row.kept_by,
        )
        assert proposals.boxes(i).dtype == np.float32
        np.testing.assert_array_equal(proposals.boxes(i), row.boxes)
    assert proposals.counts().tolist() == [2, 1, 3]
    np.testing.assert_array_equal(proposals.all_boxes(), np.concatenate([row.boxes for row in good]))


def test_the_ids_of_all_images_are_read_table_by_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_TABLE", 1)
    write_rows(tmp_path / "rows.parquet", ROWS * 6)  # 24 tables: the order is that of the numbers, not of the digits
    write_merged(tmp_path, read_rows(tmp_path / "rows.parquet"), HEADER)
    ids = Proposals(tmp_path).all_ids()
    assert len(ids) == 24
    assert list(ids) == list(ids) == [row.id for row in ROWS] * 6


def test_boxes_are_a_copy(merged: Path) -> None:
    proposals = Proposals(merged)
    proposals.boxes(0)[:] = -1
    np.testing.assert_array_equal(proposals.boxes(0), ROWS[0].boxes)


def test_the_reader_is_pickled_as_its_path(merged: Path) -> None:
    data = pickle.dumps(Proposals(merged))
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).boxes(2), ROWS[3].boxes)


def test_the_boxes_are_mapped_and_not_read(merged: Path) -> None:
    before = pa.total_allocated_bytes()
    proposals = Proposals(merged)
    assert [proposals.id(i) for i in range(3)] == ["a.jpg", "c.jpg", "d.jpg"]
    assert pa.total_allocated_bytes() == before
    assert not proposals.all_boxes().flags.owndata


def test_the_manifest_counts(merged: Path) -> None:
    manifest = json.loads((merged / "manifest.json").read_text())
    assert manifest["contract"] == 2
    assert {key: manifest[key] for key in HEADER} == HEADER
    assert manifest["images"] == {"good": 3, "bad": 1}
    assert manifest["kept_by"] == {"strict": 1, "aspect_ratio": 1, "min_side": 0, "whole_image": 1}
    assert manifest["boxes_per_image"] == {"total": 6, "mean": 2.0, "min": 1, "median": 2.0, "max": 3}
    assert manifest["bad_images"] == [{"id": "b/ä.jpg", "reason": "empty file"}]
    assert manifest["reduced_images"] == ["a.jpg"]
    assert [entry["rows"] for entry in manifest["shards"]] == [4]


def test_a_manifest_that_names_a_million_images_is_not_loaded(merged: Path) -> None:
    manifest = json.loads((merged / "manifest.json").read_text())
    manifest["reduced_images"] = [f"n01440764/n01440764_{number}.JPEG" for number in range(300_000)]
    (merged / "manifest.json").write_text(json.dumps(manifest))
    tracemalloc.start()
    try:
        assert len(Proposals(merged)) == 3
        assert tracemalloc.get_traced_memory()[1] < 2e6
        json.loads((merged / "manifest.json").read_text())
        assert tracemalloc.get_traced_memory()[1] > 20e6  # what it is kept from
    finally:
        tracemalloc.stop()


def test_files_do_not_tell_how_the_rows_were_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_TABLE", 3)
    written = []
    for cut in (0, 1, 3):
        folder = tmp_path / str(cut)
        parts = []
        for name, rows in (("x", ROWS[:cut]), ("y", ROWS[cut:])):
            write_rows(tmp_path / name, rows)
            parts.append(read_rows(tmp_path / name))
        manifest = write_merged(folder, pa.concat_tables(parts), HEADER)
        assert [entry["rows"] for entry in manifest["shards"]] == [3, 1]
        written.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert len(written[0]) == 4
    assert written[0] == written[1] == written[2]


def test_a_manifest_whose_files_changed_is_not_intact(merged: Path) -> None:
    assert intact_manifest(merged) == json.loads((merged / "manifest.json").read_text())
    data = (merged / "kept.arrow").read_bytes()
    (merged / "kept.arrow").write_bytes(data[:-1] + b"x")
    assert intact_manifest(merged) is None
    (merged / "kept.arrow").write_bytes(data)
    (merged / "tables" / "00000.parquet").unlink()
    assert intact_manifest(merged) is None


def test_damaged_files_are_said_in_one_line(merged: Path) -> None:
    (merged / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"rows\.parquet: damaged"):
        read_rows(merged / "rows.parquet")
    (merged / "kept.arrow").write_bytes(b"")
    with pytest.raises(InputError, match="no readable proposals") as caught:
        Proposals(merged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{", "no readable proposals"),
        ("", "no readable proposals"),
        ("[]", r"no readable proposals \(manifest\.json lacks contract, image_set, search"),
        ('{"contract": 2, "search": {}}', r"no readable proposals \(manifest\.json lacks image_set\)"),
        (
            '{"contract": 1, "image_set": {}, "search": {}}',
            r"of contract 1, but .* reads contract 2; run `soco propose`",
        ),
    ],
)
def test_a_manifest_of_another_kind_is_said_in_one_line(merged: Path, manifest: str, said: str) -> None:
    (merged / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match=said) as caught:
        Proposals(merged)
    assert "\n" not in str(caught.value)

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from soco_core import storage
from soco_core.errors import InputError
from soco_core.proposals import boxes_stream
from soco_core.proposals.boxes_file import boxes_file_sha256
from soco_core.proposals.imported import ImportedBoxes, check_keys, convert_boxes_file

Convert = Callable[[Any], Path]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Write a value as JSON (or text, or bytes, as they are) and convert it; return the Arrow file."""

    def make(content: Any) -> Path:
        source = tmp_path / "boxes.json"
        if isinstance(content, bytes):
            source.write_bytes(content)
        else:
            source.write_text(content if isinstance(content, str) else json.dumps(content))
        convert_boxes_file(source, tmp_path / "boxes.arrow")
        return tmp_path / "boxes.arrow"

    return make


def search(path: Path, image_id: str, width: int = 100, height: int = 80) -> list[list[float]]:
    boxes = ImportedBoxes(path).search(image_id, np.zeros((height, width, 3), np.uint8))
    assert boxes.dtype == np.float32
    assert boxes.shape[1:] == (4,)
    return boxes.tolist()


def coco(**more: Any) -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "000000000007.jpg", "width": 100, "height": 80},
            {"id": 3, "file_name": "000000000003.jpg", "width": 100, "height": 80},
            {"id": 5, "file_name": "000000000005.jpg", "width": 100, "height": 80},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "bbox": [10.5, 20, 30, 40.25], "iscrowd": 0, "segmentation": [[1, 2, 3, 4]]},
            {"id": 2, "image_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {
                "id": 3,
                "image_id": 3,
                "bbox": [0, 0, 99, 79],
                "iscrowd": 1,
                "segmentation": {"counts": [1], "size": [2]},
            },
            {"id": 4, "image_id": 3, "bbox": [5, 6, 7, 8]},
        ],
        **more,
    }


def test_the_authors_format_keeps_the_order_of_the_file(convert: Convert) -> None:
    path = convert({"n01_2": [[10, 20, 30, 40], [1, 2, 3, 4], [10, 20, 30, 40]], "n01_1": [[0, 0, 5.5, 6.25]], "e": []})
    assert search(path, "n01/n01_2.JPEG") == [[10, 20, 40, 60], [1, 2, 4, 6], [10, 20, 40, 60]]
    assert search(path, "n01/n01_1.JPEG") == [[0, 0, 5.5, 6.25]]
    assert search(path, "e.png") == []
    assert search(path, "n01/n01_3.JPEG") == []


@pytest.mark.parametrize(
    ("key", "image_id"),
    [
        ("a/b/c.d.jpg", "a/b/c.d.jpg"),  # the whole id
        ("a/b/c.d", "a/b/c.d.jpg"),  # without suffix
        ("b/c.d.jpg", "a/b/c.d.jpg"),  # relative to a folder below
        ("b/c.d", "a/b/c.d.jpg"),
        ("c.d.jpg", "a/b/c.d.jpg"),  # the file's name
        ("c.d", "a/b/c.d.jpg"),  # as the authors write it
        ("c", "a/b/c.d.jpg"),  # as the authors look it up
        ("Ämter/雪", "Ämter/雪.png"),
        ("007", "x/007.jpg"),
    ],
)
def test_how_an_image_may_be_named(key: str, image_id: str, convert: Convert) -> None:
    assert search(convert({"zz": [[9, 9, 9, 9]], key: [[1, 2, 3, 4]], "0": [[9, 9, 9, 9]]}), image_id) == [[1, 2, 4, 6]]


@pytest.mark.parametrize("key", ["b/c/d.jpg", "a/c", "d", "7", "x/a/c.jpg"])
def test_what_is_another_image(key: str, convert: Convert) -> None:
    path = convert({key: [[1, 2, 3, 4]]})
    assert search(path, "a/b/c.jpg") == []
    assert search(path, "007.jpg") == []


def test_the_longest_name_wins(convert: Convert) -> None:
    path = convert({"c": [[1, 1, 1, 1]], "b/c": [[2, 2, 2, 2]], "a/b/c.jpg": [[3, 3, 3, 3]]})
    assert search(path, "a/b/c.jpg") == [[3, 3, 6, 6]]
    assert search(path, "z/b/c.jpg") == [[2, 2, 4, 4]]
    assert search(path, "z/z/c.jpg") == [[1, 1, 2, 2]]


def test_every_key_of_many_is_found(convert: Convert) -> None:
    rng = np.random.default_rng(0)
    boxes = {f"{k:x}{'é' * (k % 3)}": rng.integers(1, 40, (k % 4, 4)).tolist() for k in rng.permutation(500).tolist()}
    path = convert(boxes)
    for key, expected in boxes.items():
        assert search(path, f"x/{key}.jpg") == [[x, y, x + w, y + h] for x, y, w, h in expected]


def test_coco_annotations_without_crowds(convert: Convert) -> None:
    path = convert(coco())
    assert search(path, "train2017/000000000003.jpg") == [[10.5, 20, 40.5, 60.25], [5, 6, 12, 14]]
    assert search(path, "000000000007.jpg") == [[1, 2, 4, 6]]
    assert search(path, "000000000005.jpg") == []


def test_coco_keys_in_any_order(convert: Convert) -> None:
    values = coco()
    for keys in (("annotations", "images", "info"), ("licenses", "annotations", "images"), ("images", "annotations")):
        path = convert({key: values[key] for key in keys})
        assert search(path, "000000000003.jpg") == [[10.5, 20, 40.5, 60.25], [5, 6, 12, 14]]


def test_coco_results_by_the_number_in_the_name(convert: Convert) -> None:
    path = convert(
        [
            {"image_id": 123, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.25},
            {"image_id": 9, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5},
            {"image_id": 123, "category_id": 2, "bbox": [5.5, 6, 7, 8], "score": 0.75},
        ]
    )
    assert search(path, "val2017/000000000123.jpg") == [[1, 2, 4, 6], [5.5, 6, 12.5, 14]]
    assert search(path, "COCO_val2014_000000000123.jpg") == [[1, 2, 4, 6], [5.5, 6, 12.5, 14]]
    assert search(path, "9.png") == [[0, 0, 9, 9]]
    assert search(path, "000000001123.jpg") == []
    assert search(path, "123/none.jpg") == []


def test_coco_results_by_names(convert: Convert) -> None:
    path = convert([{"image_id": "2007_000027", "bbox": [1, 2, 3, 4]}, {"image_id": "27", "bbox": [0, 0, 9, 9]}])
    assert search(path, "JPEGImages/2007_000027.jpg") == [[1, 2, 4, 6]]
    assert search(path, "000027.jpg") == []


def test_boxes_are_clipped_and_empty_ones_dropped(convert: Convert) -> None:
    path = convert(
        {"a": [[-5, -6, 20, 30], [90, 70, 50, 50], [100, 0, 5, 5], [-9, 0, 9, 9], [3, 3, 0, 5], [3, 3, 5, 0]]}
    )
    assert search(path, "a.png") == [[0, 0, 15, 24], [90, 70, 100, 80]]
    assert search(path, "a.png", 10, 10) == [[0, 0, 10, 10]]


def test_the_memory_map_is_not_written_to(convert: Convert) -> None:
    path = convert({"a": [[0, 0, 50, 50]]})
    engine = ImportedBoxes(path)
    image = np.zeros((20, 20, 3), np.uint8)
    engine.search("a.png", image)[:] = 7
    assert engine.search("a.png", image).tolist() == [[0, 0, 20, 20]]


def test_from_s3_in_pieces(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes_stream, "PIECE_BYTES", 100)
    boxes = {f"image-{k}": [[k, 1, 2, 3]] for k in range(200)}
    text = json.dumps(boxes)
    storage.write_text(f"{s3}/boxes.json", text)
    assert boxes_file_sha256(f"{s3}/boxes.json") == hashlib.sha256(text.encode()).hexdigest()
    convert_boxes_file(f"{s3}/boxes.json", tmp_path / "boxes.arrow")
    assert search(tmp_path / "boxes.arrow", "image-77.jpg") == [[77, 1, 79, 4]]
    with pytest.raises(InputError, match=re.escape(f"{s3}/none.json") + ".*give the JSON file"):
        convert_boxes_file(f"{s3}/none.json", tmp_path / "none.arrow")
    assert not (tmp_path / "none.arrow").exists()


def test_a_large_file_shows_its_progress(
    convert: Convert, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert({"a": [[1, 2, 3, 4]] * 200_000})
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(boxes_stream, "QUIET_BYTES", 1_000_000)
    convert({"a": [[1, 2, 3, 4]] * 200_000})
    assert "boxes: 2/2 MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not whole, valid JSON"),
        (b'{"a": [[1, 2, 3, 4]]', "not whole, valid JSON"),
        (b'{"a": [[1, 2, 3', "not whole, valid JSON"),
        (b'{"a": [[1, 2, 3, 4]]} {}', "not whole, valid JSON"),
        (b'{"a": [[NaN, 2, 3, 4]]}', "not whole, valid JSON.*NaN"),
        (b'{"a": [[1, Infinity, 3, 4]]}', "not whole, valid JSON.*Infinity"),
        (b'{"a": [[1e999, 2, 3, 4]]}', "not whole, valid JSON"),
        (
            b'{"\xff": [[1, 2, 3, 4]]}',
            r'JSON \(lexical error: invalid bytes in UTF8 string. {"\\xff": \[\[1, 2, 3, 4\]\]}\)',
        ),
        (b"\x00\x01\x02", "not whole, valid JSON"),
        (b"x,y,w,h\n1,2,3,4\n", "not whole, valid JSON"),
        ("3", "holds no box"),
        ('"a"', "holds no box"),
        ({}, "holds no box"),
        ([], "holds no box"),
        ({"a": [], "b": []}, "holds no box"),
        ({"a": [[1, 2, 3, 4]], "b": [[1, 2, -3, 4]]}, r"'b': \[1, 2, -3, 4\]: negative width or height"),
        ({"b": [[1, 2, 3, 4], [1, 2, 3, -0.5]]}, r"'b': \[1, 2, 3, -0.5\]: negative width or height"),
        ({"a": [[1, 2, 3]]}, r"'a': \[\[1, 2, 3\]\]: a box is \[x, y, w, h\], four numbers"),
        ({"a": [[1, 2, 3, 4], [1, 2, 3]]}, "'a': .*four numbers"),
        ({"a": [[1, 2, 3, 4]], "b": [1, 2, 3, 4]}, "'b': .*four numbers"),
        ({"a": [[1, 2, 3, 4]], "b": [[]]}, "'b': .*four numbers"),
        ({"a": [[1, 2, 3, "4"]]}, "'a': .*four numbers"),
        ({"a": [[1, 2, 3, None]]}, "'a': .*four numbers"),
        ({"a": [[1, 2, 3, 4]], "b": None}, "'b': None: .*four numbers"),
        ({"a": [[1, 2, 3, 4]], "b": {"c": 1}}, "'b': .*four numbers"),
        ({"a": [[1e300, 2, 3, 4]]}, "'a': .*too large"),
        ('{"a": [[1, 2, 3, 4]], "a": [[5, 6, 7, 8]]}', "'a': stands there twice"),
        ({"a": 3}, "'a': 3: .*four numbers"),
        ({"a": [1, 2, 3, 4]}, r"'a': \[1, 2, 3, 4\]: .*four numbers"),
        ({"a": [], "b": "x"}, "'b': 'x': .*four numbers"),
        ({"a": {"b": [[1, 2, 3, 4]]}}, "'a': .*four numbers"),
        ('{"a": [[1, 2, 3, 4], [true, 2, 3, 4]]}', r"'a': .*True, 2, 3, 4\]\]: .*four numbers"),
        (coco(annotations=[{"image_id": 3, "bbox": [1, 2, 3, False]}]), r"annotations\[0\].bbox: .*four numbers"),
        ({"info": {}, "images": [], "annotations": []}, "holds no box"),
        (coco(annotations=[]), "holds no box"),
        (
            coco(annotations=[{"image_id": 4, "bbox": [1, 2, 3, 4]}]),
            r"annotations\[0\]: image_id 4 is none of `images`",
        ),
        (coco(annotations=[{"image_id": 3, "bbox": [1, 2, 3, -4]}]), r"annotations\[0\].bbox: .*negative"),
        (coco(annotations=[{"image_id": 3, "bbox": []}]), r"annotations\[0\].bbox: .*four numbers"),
        (coco(annotations=[{"image_id": 3}]), r"annotations\[0\].bbox: .*four numbers"),
        (coco(annotations=[{"bbox": [1, 2, 3, 4]}]), r"annotations\[0\]: image_id is None"),
        (coco(annotations=[7]), r"annotations\[0\]: 7 is not an object"),
        (coco(images=[{"id": 3}]), r"images\[0\]: file_name is None"),
        (coco(images=[{"id": 3.5, "file_name": "a"}]), r"images\[0\]: id is 3.5, neither"),
        (coco(images=[{"id": True, "file_name": "a"}]), r"images\[0\]: id is True, neither"),
        (coco(images=[{"id": 3, "file_name": "a"}, {"id": 3, "file_name": "b"}]), r"images\[1\]: .*stands there twice"),
        (coco(images=[{"id": 3, "file_name": "a"}, {"id": 4, "file_name": "a"}]), r"images\[1\]: .*stands there twice"),
        ([[1, 2, 3, 4]], r"\[0\]: \[1, 2, 3, 4\] is not an object"),
        ([{"bbox": [1, 2, 3, 4]}], r"\[0\]: image_id is None"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1, "bbox": [1, 2, 3]}], r"\[1\].bbox: .*four numbers"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": "1", "bbox": [1, 2, 3, 4]}], r"\[1\]: .*another type"),
    ],
)
def test_what_is_wrong_is_named(content: Any, told: str, convert: Convert, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told) as caught:
        convert(content)
    text = str(caught.value)
    assert str(tmp_path / "boxes.json") in text
    assert text.endswith("COCO annotations or COCO results (docs/proposals.md)")
    assert "\n" not in text
    assert len(text) < 500
    assert not (tmp_path / "boxes.arrow").exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for source in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(source)) + ".*give the JSON file"):
            convert_boxes_file(source, tmp_path / "boxes.arrow")


def test_a_damaged_conversion(convert: Convert) -> None:
    path = convert({"a": [[1, 2, 3, 4]]})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete it and run the same command again"):
        ImportedBoxes(path)
    path.unlink()
    with pytest.raises(InputError, match="delete it and run the same command again"):
        ImportedBoxes(path)


def test_images_without_a_box_are_counted(convert: Convert) -> None:
    path = convert({"a": [[1, 2, 3, 4]], "b": [], "d": [[1, 2, 3, 4]]})
    assert check_keys(path, ("x/a.jpg", "x/b.jpg", "x/c.jpg")) == 2
    assert check_keys(path, ["x/a.jpg"]) == 0


def test_two_images_of_one_key_are_named(convert: Convert) -> None:
    path = convert({"a": [[1, 2, 3, 4]], "b": [[1, 2, 3, 4]]})
    with pytest.raises(InputError, match=r"'a' stands for two images, x/a.jpg and y/a.jpg; name each by its path"):
        check_keys(path, ("x/a.jpg", "x/b.jpg", "y/a.jpg"))
    path = convert({"a": [[1, 2, 3, 4]], "y/a": [[1, 2, 3, 4]]})
    assert check_keys(path, ("x/a.jpg", "y/a.jpg")) == 0
    path = convert([{"image_id": 27, "bbox": [1, 2, 3, 4]}])
    with pytest.raises(InputError, match=r"'27' stands for two images, 2007_000027\.jpg and 2008_000027\.jpg"):
        check_keys(path, ("2007_000027.jpg", "2008_000027.jpg"))


def test_a_file_of_another_set_is_an_error(convert: Convert, tmp_path: Path) -> None:
    path = convert({"n01_1": [[1, 2, 3, 4]]})
    with pytest.raises(
        InputError, match=r"no box for any of the 2 images; the first is x/a.jpg, .* key 'n01_1'"
    ) as told:
        check_keys(path, ("x/a.jpg", "x/b.jpg"))
    assert str(tmp_path / "boxes.json") in str(told.value)


def test_real_annotations(shared_data: Path, tmp_path: Path) -> None:
    """Against the annotations read with json alone."""
    folder = shared_data / "coco-mini"
    source = folder / "annotations" / "instances_train.json"
    convert_boxes_file(source, tmp_path / "boxes.arrow")
    values = json.loads(source.read_text())
    names = {image["id"]: image["file_name"] for image in values["images"]}
    boxes: dict[str, npt.NDArray[np.float32]] = {}
    for image_id, name in names.items():
        own = [a["bbox"] for a in values["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
        boxes[name] = np.array([[x, y, x + w, y + h] for x, y, w, h in own], np.float32).reshape(-1, 4)
    without = sum(len(own) == 0 for own in boxes.values())
    assert check_keys(tmp_path / "boxes.arrow", sorted(boxes)) == without
    engine = ImportedBoxes(tmp_path / "boxes.arrow")
    for image in values["images"]:
        name = image["file_name"]
        found = engine.search(f"train/{name}", np.zeros((image["height"], image["width"], 3), np.uint8))
        expected = np.clip(boxes[name], 0, [image["width"], image["height"]] * 2)
        assert found.tolist() == expected.tolist()


def test_the_file_is_uncompressed_sorted_and_the_same_each_time(convert: Convert) -> None:
    path = convert({"b": [[1, 2, 3, 4]], "a": [[5, 6, 7, 8]], "ä": [], "Z": [[0, 0, 1, 1]]})
    first = path.read_bytes()
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    assert batch.column("key").to_pylist() == ["Z", "a", "b", "ä"]
    assert batch.column("boxes").to_pylist() == [[[0, 0, 1, 1]], [[5, 6, 12, 14]], [[1, 2, 4, 6]], []]
    # The four boxes stand in the file as they are.
    assert np.array([0, 0, 1, 1, 5, 6, 12, 14, 1, 2, 4, 6], np.float32).tobytes() in first
    assert convert({"Z": [[0, 0, 1, 1]], "b": [[1, 2, 3, 4]], "ä": [], "a": [[5, 6, 7, 8]]}).read_bytes() == first

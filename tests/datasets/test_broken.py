"""Broken annotation files: one clear line each, naming file and field, from the readers and from the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from soco_core.cli import app
from soco_core.datasets.open_set import open_dataset
from soco_core.errors import InputError
from tests.datasets.conftest import HEIGHT, WIDTH, JsonSet, VocSet, voc_file, voc_object

BOMB = """<?xml version="1.0"?>
<!DOCTYPE bomb [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]>
<annotation><filename>&c;</filename></annotation>"""
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>'


def spoil(part: str, index: int, key: str, value: Any) -> Callable[[JsonSet], None]:
    def apply(data: JsonSet) -> None:
        data.train[part][index][key] = value

    return apply


def drop(part: str, index: int, key: str) -> Callable[[JsonSet], None]:
    def apply(data: JsonSet) -> None:
        del data.train[part][index][key]

    return apply


def folder_for_an_image(data: JsonSet) -> None:
    data.train["images"][1]["file_name"] = "sub"
    (data.root / "train2017" / "sub").mkdir()


def bare_file_name(data: JsonSet) -> None:
    del data.train["images"][0]["coco_url"]
    data.train["images"][0]["file_name"] = "1.jpg"


def rle(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


BROKEN_JSON = [
    ("no list of annotations", lambda data: data.train.pop("annotations"), ["'annotations'"]),
    ("images is no list", lambda data: data.train.update(images={}), ["'images'"]),
    ("no image at all", lambda data: data.train.update(images=[], annotations=[]), ["images is empty"]),
    ("no category", lambda data: data.train.update(categories=[], annotations=[]), ["categories is empty"]),
    ("an entry that is no object", lambda data: data.train["annotations"].append(5), ["annotations[2]", "5"]),
    ("a missing key", drop("annotations", 1, "bbox"), ["annotations[1] (id 2)", "'bbox'"]),
    ("an id that is text", spoil("images", 0, "id", "1"), ["images[0].id", "'1'"]),
    ("an id twice", spoil("annotations", 1, "id", 1), ["annotations[1].id", "twice"]),
    ("a category id twice", spoil("categories", 1, "id", 7), ["categories[1].id", "7 appears twice"]),
    ("a category name twice", spoil("categories", 1, "name", "cat"), ["categories[1].name", "cat"]),
    ("a category without name", spoil("categories", 1, "name", ""), ["categories[1].name"]),
    ("no width", spoil("images", 0, "width", 0), ["images[0].width (id 1)", "0 is not"]),
    ("a height that is text", spoil("images", 1, "height", "30"), ["images[1].height (id 2)", "'30'"]),
    ("an unknown image", spoil("annotations", 0, "image_id", 99), ["annotations[0].image_id (id 1)", "99"]),
    ("an image id that is a list", spoil("annotations", 0, "image_id", [1]), ["annotations[0].image_id", "[1]"]),
    ("an unknown category", spoil("annotations", 0, "category_id", 99), ["annotations[0].category_id", "99"]),
    ("three numbers", spoil("annotations", 0, "bbox", [1, 2, 3]), ["annotations[0].bbox", "[1, 2, 3]"]),
    ("no number in a box", spoil("annotations", 0, "bbox", [1, 2, None, 4]), ["annotations[0].bbox", "None"]),
    ("not a number in a box", spoil("annotations", 0, "bbox", [1, 2, float("nan"), 4]), ["annotations[0].bbox", "nan"]),
    ("a number beyond any image", spoil("annotations", 0, "bbox", [10**400, 0, 1, 1]), ["annotations[0].bbox"]),
    ("a negative side", spoil("annotations", 0, "bbox", [9, 9, -3, 4]), ["annotations[0].bbox", "[9, 9, -3, 4]"]),
    ("corners for sides", spoil("annotations", 0, "bbox", [20, 6, 39, 16]), ["annotations[0].bbox", "40x30"]),
    ("an area that is text", spoil("annotations", 0, "area", "big"), ["annotations[0].area", "'big'"]),
    ("an area beyond any number", spoil("annotations", 0, "area", 10**400), ["annotations[0].area"]),
    ("a number for a mask", spoil("annotations", 0, "segmentation", 5), ["annotations[0].segmentation", "5"]),
    ("one flat polygon", spoil("annotations", 0, "segmentation", [1, 2, 3, 4, 5, 6]), ["annotations[0].segmentation"]),
    ("text in a polygon", spoil("annotations", 0, "segmentation", [[1, 2, 3, 4, 5, "x"]]), ["[0].segmentation", "'x'"]),
    ("infinity in a polygon", spoil("annotations", 0, "segmentation", [[1, 2, 3, 4, 5, 1e999]]), ["[0].segmentation"]),
    ("RLE without counts", spoil("annotations", 0, "segmentation", {"size": [30, 40]}), ["[0].segmentation", "size"]),
    ("RLE of another size", spoil("annotations", 0, "segmentation", rle([1200], (40, 30))), ["segmentation.size"]),
    (
        "RLE of a size with a point",
        spoil("annotations", 0, "segmentation", rle([1200], (30.0, 40.0))),
        ["[30.0, 40.0]"],
    ),
    ("RLE of a size that is a number", spoil("annotations", 0, "segmentation", {"size": 30, "counts": []}), [".size"]),
    ("RLE that is too short", spoil("annotations", 0, "segmentation", rle([0, 99])), ["segmentation.counts", "99"]),
    ("RLE of damaged text", spoil("annotations", 0, "segmentation", rle("0o")), ["segmentation.counts"]),
]
COCO_ONLY = [
    ("iscrowd 2", spoil("annotations", 0, "iscrowd", 2), ["annotations[0].iscrowd (id 1)", "2"]),
    ("a way out of the folder", spoil("images", 0, "file_name", "../1.jpg"), ["images[0].file_name", "'../1.jpg'"]),
    ("an absolute file", spoil("images", 0, "file_name", "/etc/passwd"), ["images[0].file_name", "/etc/passwd"]),
    ("a file that is a number", spoil("images", 0, "file_name", 1), ["images[0].file_name"]),
    ("a file with a null", spoil("images", 0, "file_name", "a\0b"), ["images[0].file_name"]),
    (
        "a name of 300 characters",
        spoil("images", 0, "file_name", "x" * 300),
        ["images[0].file_name (id 1)", "too long"],
    ),
    ("a name of 128 deep folders", spoil("images", 0, "file_name", "1234567/" * 128 + "x"), [".file_name", "too long"]),
    ("half a surrogate pair", spoil("images", 0, "file_name", "a\ud800.jpg"), ["images[0].file_name (id 1)", "ud800"]),
    ("a folder for an image", folder_for_an_image, ["image sub in", "is a folder"]),
    ("a file that is not there", spoil("images", 1, "file_name", "x.jpg"), ["x.jpg", "1 of 2 are missing"]),
]
LVIS_ONLY = [
    ("no list of absences", drop("images", 0, "neg_category_ids"), ["images[0] (id 1)", "'neg_category_ids'"]),
    ("absences that are no list", spoil("images", 0, "neg_category_ids", 9), ["images[0].neg_category_ids", "9"]),
    ("an unknown absence", spoil("images", 0, "neg_category_ids", [5]), ["images[0].neg_category_ids", "5"]),
    ("names for ids", spoil("images", 1, "not_exhaustive_category_ids", ["cat"]), ["not_exhaustive_category_ids"]),
    ("no URL", drop("images", 0, "coco_url"), ["images[0].coco_url"]),
    ("a bare file name", bare_file_name, ["images[0].file_name (id 1)", "'1.jpg' does not end in"]),
    ("a URL of nothing", spoil("images", 0, "coco_url", "1.jpg"), ["images[0].coco_url", "'1.jpg'"]),
    ("a URL that leads out", spoil("images", 0, "coco_url", "http://x/../1.jpg"), ["images[0].file_name"]),
    ("an unknown frequency", spoil("categories", 0, "frequency", "rare"), ["categories[0].frequency", "'rare'"]),
]
JSON_CASES = [(kind, *case) for kind in ("coco", "lvis") for case in BROKEN_JSON]
JSON_CASES += [("coco", *case) for case in COCO_ONLY] + [("lvis", *case) for case in LVIS_ONLY]

BROKEN_TEXT = [
    ("an empty file", b"", ["JSON"]),
    ("a file that breaks off", b'{"images": [{"id": 1,', ["JSON"]),
    ("a list", b"[1, 2]", ["'images'"]),
    ("bytes that are no text", b"\xff\xfe\x00{}", ["JSON"]),
    ("too deep", b"[" * 200_000, ["JSON"]),
    ("a number of 5000 digits", b'{"images": [' + b"9" * 5000 + b"]}", ["JSON"]),
]

BROKEN_XML = [
    ("an empty file", "", ["XML"]),
    ("a file that breaks off", "<annotation><size><width>40", ["XML"]),
    ("an entity bomb", BOMB, ["DOCTYPE bomb"]),
    ("an external entity", EXTERNAL, ["DOCTYPE x"]),
    ("an unknown entity", "<annotation>&what;</annotation>", ["XML", "entity"]),
    ("an unknown encoding", '<?xml version="1.0" encoding="klingon"?><annotation/>', ["XML"]),
    ("too deep", "<a>" * 100_000, ["deeper"]),
    ("another root", "<html></html>", ["'html'"]),
    ("no size", "<annotation></annotation>", ["annotation/size/width"]),
    ("a width that is text", voc_file(size="<width>wide</width><height>30</height>"), ["size/width", "'wide'"]),
    ("no height", voc_file(size="<width>40</width><height>0</height>"), ["annotation/size", "40x0"]),
    ("no name", voc_file(voc_object(), voc_object("")), ["annotation/object[2]/name"]),
    ("an unknown class", voc_file(voc_object("Dining Table")), ["object[1]/name", "did you mean diningtable?"]),
    ("no box", voc_file("<object><name>cat</name></object>"), ["annotation/object[1]/bndbox/xmin"]),
    ("no xmax", voc_file(voc_object().replace("xmax", "xend")), ["annotation/object[1]/bndbox/xmax"]),
    ("a side that is text", voc_file(voc_object(box=(1, 2, 3, "x"))), ["object[1]/bndbox/ymax", "'x'"]),
    ("a side that is no number", voc_file(voc_object(box=("nan", 2, 3, 4))), ["object[1]/bndbox/xmin", "'nan'"]),
    ("a side without end", voc_file(voc_object(box=("inf", 2, 3, 4))), ["object[1]/bndbox/xmin", "'inf'"]),
    ("a box backwards", voc_file(voc_object(box=(9, 2, 3, 4))), ["object[1]/bndbox", "xmin 9", "xmax 3"]),
    ("a box outside", voc_file(voc_object(box=(9, 2, 90, 4))), ["object[1]/bndbox", "40x30"]),
    ("difficult 2", voc_file(voc_object(difficult=2)), ["object[1]/difficult", "'2'"]),
]


def one_line(text: str) -> str:
    assert "\n" not in text
    assert "Traceback" not in text
    assert "; " in text  # what is wrong; what to do
    return text


def through_the_command(place: str) -> list[str]:
    done = CliRunner().invoke(app, ["datasets", "check", place])
    assert done.exit_code == 2, done.output
    return [line for line in done.stdout.splitlines() if line.startswith("error")]


@pytest.mark.parametrize(("kind", "name", "change", "words"), JSON_CASES, ids=[f"{c[0]}: {c[1]}" for c in JSON_CASES])
def test_json(json_set, kind: str, name: str, change: Callable[[JsonSet], None], words: list[str]) -> None:
    data = json_set(kind)
    change(data)
    place = data.write()
    with pytest.raises(InputError) as caught:
        open_dataset(place, kind)
    text = one_line(str(caught.value))
    lines = through_the_command(place)
    for word in [str(data.file("train")), *words]:
        assert word in text
        assert any(word in line for line in lines), lines
    shown = [line for line in lines if "differ between the splits" not in line and "unknown" not in line]
    assert len(shown) <= 1, lines  # one mistake is not said many times


@pytest.mark.parametrize(("name", "data", "words"), BROKEN_TEXT, ids=[case[0] for case in BROKEN_TEXT])
@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_text_that_is_no_json(json_set, kind: str, name: str, data: bytes, words: list[str]) -> None:
    broken = json_set(kind)
    place = broken.write()
    broken.file("train").write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_dataset(place, kind)
    text = one_line(str(caught.value))
    (line,) = through_the_command(place)
    for word in [str(broken.file("train")), *words]:
        assert word in text
        assert word in line


@pytest.mark.parametrize(("name", "xml", "words"), BROKEN_XML, ids=[case[0] for case in BROKEN_XML])
def test_xml(voc_set: VocSet, name: str, xml: str, words: list[str]) -> None:
    voc_set.annotations().write_text(xml)
    with pytest.raises(InputError) as caught:
        open_dataset(str(voc_set.root), "voc")
    text = one_line(str(caught.value))
    (line,) = through_the_command(str(voc_set.root))
    for word in [str(voc_set.annotations()), *words]:
        assert word in text
        assert word in line


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("000001\n../../etc/passwd\n", ["line 2", "'../../etc/passwd'"]),
        ("000001\n000001\n", ["line 2", "000001 is listed before"]),
        ("", ["lists no image"]),
        ("000009\n", ["000009.xml"]),
    ],
)
def test_voc_lists(voc_set: VocSet, listed: str, words: list[str]) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc_set.list_file(year=year).write_text(listed if year == "VOC2007" else "")
    with pytest.raises(InputError) as caught:
        open_dataset(str(voc_set.root), "voc")
    (line,) = through_the_command(str(voc_set.root))
    for word in words:
        assert word in one_line(str(caught.value))
        assert word in line


def test_what_is_missing_is_named(json_set, voc_set: VocSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_dataset(str(tmp_path / "nowhere"), "coco")
    coco = json_set("coco")
    place = coco.write()
    with pytest.raises(InputError, match=r"no lvis_v1_train\.json"):
        open_dataset(place, "lvis")
    with pytest.raises(InputError, match=r"no split trainval of VOC \(ImageSets/Main/trainval\.txt"):
        open_dataset(place, "voc")
    for path in (coco.root / "val2017").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"000000000011\.jpg is in none of"):
        open_dataset(place, "coco")
    (voc_set.root / "VOC2007" / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(InputError, match=r"000002\.jpg is not in .*1 of 3 are missing"):
        open_dataset(str(voc_set.root), "voc")


def test_a_second_kind_of_mistake_does_not_hide_the_first(json_set) -> None:
    coco = json_set("coco")
    coco.train["annotations"][0]["bbox"] = [1, 2, 3]
    coco.train["annotations"][1]["category_id"] = 99
    coco.val["annotations"][0]["area"] = -1
    lines = through_the_command(coco.write())
    assert [line.split()[1] for line in lines] == ["train", "train", "val"]
    assert json.loads(coco.file("val").read_text())["annotations"][0]["area"] == -1

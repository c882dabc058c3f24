"""What the readers make of each format; other readers' view of the same files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from soco_core.config import DatasetsConfig
from soco_core.datasets.files import read_json
from soco_core.datasets.findings import Findings
from soco_core.datasets.labels import read_folder_labels
from soco_core.datasets.open_set import kind_of, locate, open_dataset, open_named
from soco_core.datasets.split import usable
from soco_core.errors import InputError


def test_voc_boxes_become_zero_based_and_both_years_are_read(voc_set):
    data = open_dataset(str(voc_set.root), "voc")
    assert [image["file_name"] for image in data.train.images] == [
        "VOC2007/JPEGImages/000001.jpg",
        "VOC2007/JPEGImages/000002.jpg",
        "VOC2012/JPEGImages/2008_000001.jpg",
    ]
    assert [image["file_name"] for image in data.val.images] == ["VOC2007/JPEGImages/000003.jpg"]
    boxes = [item["bbox"] for item in data.train.annotations]
    # By hand: pixels 6..25 and 7..16, counted from 1, both ends included; the third covers the whole image.
    assert boxes == [[5, 6, 20, 10], [5, 6, 20, 10], [0, 0, 40, 30], [5.5, 6, 19.75, 10]]
    assert [item["difficult"] for item in data.train.annotations] == [0, 1, 0, 0]
    assert [item["area"] for item in data.train.annotations] == [200, 200, 1200, 197.5]
    names = {item["id"]: item["name"] for item in data.train.categories}
    assert [names[item["category_id"]] for item in data.train.annotations] == ["cat", "dog", "bird", "sofa"]
    assert all(usable(item, masks=False) for item in data.train.annotations)
    assert not any(usable(item, masks=True) for item in data.train.annotations)


def test_a_voc_part_is_no_object(voc_set):
    part = "<part><name>head</name><bndbox><xmin>7</xmin><ymin>8</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    text = voc_set.annotations().read_text().replace("</object>", f"{part}</object>", 1)
    voc_set.annotations().write_text(text)
    assert len(open_dataset(str(voc_set.root), "voc").train.annotations) == 4


@pytest.mark.parametrize("below", ["VOCdevkit", ""])
def test_voc_is_found_in_its_kit_and_flat(voc_set, tmp_path, below):
    if below:
        (voc_set.root / below).mkdir()
        for year in ("VOC2007", "VOC2012"):
            shutil.move(voc_set.root / year, voc_set.root / below / year)
        place, images = voc_set.root, 3
    else:
        place, images = voc_set.root / "VOC2007", 2
    assert kind_of(str(place)) == "voc"
    assert len(open_dataset(str(place), "voc").train.images) == images


def test_lvis_images_follow_their_url_and_annotations_get_what_coco_s_have(json_set):
    lvis = json_set("lvis")
    data = open_dataset(lvis.write(), "lvis")
    assert [image["file_name"] for image in data.train.images] == [
        "train2017/000000000001.jpg",
        "train2017/000000000002.jpg",
    ]
    assert {(item["iscrowd"], item["difficult"]) for item in data.train.annotations} == {(0, 0)}
    assert data.train.images[0]["neg_category_ids"] == [9]
    assert data.train.images[0]["not_exhaustive_category_ids"] == [7]
    assert data.train.class_of == {3: 0, 7: 1, 9: 2}


def test_lvis_without_images_takes_coco_s(json_set, tmp_path):
    lvis = json_set("lvis")
    lvis.write()
    (tmp_path / "coco").mkdir(exist_ok=True)
    for split in ("train2017", "val2017"):
        shutil.move(lvis.root / split, tmp_path / "coco" / split)
    data = open_named(str(lvis.root), DatasetsConfig(coco=str(tmp_path / "coco")))
    assert data.train.folder == str((tmp_path / "coco").resolve())
    assert open_named("lvis-v1", DatasetsConfig(), str(tmp_path)).train.fingerprint == data.train.fingerprint
    with pytest.raises(InputError, match=r"nobody says where coco lies; give --data DIR, set datasets\.coco"):
        open_named(str(lvis.root), DatasetsConfig())


def test_coco_is_read_as_it_is(json_set):
    coco = json_set("coco")
    data = open_dataset(coco.write(), "coco")
    assert data.train.folder.endswith("train2017")
    assert data.train.annotations == [{**item, "difficult": 0} for item in coco.train["annotations"]]
    assert data.train.as_coco()["categories"] == sorted(coco.train["categories"], key=lambda item: item["id"])
    assert Path(data.train.image_uri(data.train.images[0])).is_file()


def test_where_a_data_set_lies(tmp_path, monkeypatch):
    own, everything = tmp_path / "own", tmp_path / "all"
    (everything / "voc").mkdir(parents=True)
    own.mkdir()
    monkeypatch.delenv("SOCO_DATA", raising=False)
    with pytest.raises(InputError, match="SOCO_DATA"):
        locate("voc", DatasetsConfig())
    monkeypatch.setenv("SOCO_DATA", str(everything))
    assert locate("voc", DatasetsConfig()) == str(everything / "voc")
    assert locate("voc", DatasetsConfig(voc=str(own))) == str(own)
    assert locate("voc", DatasetsConfig(voc="elsewhere"), str(everything)) == str(everything / "voc")
    assert locate("voc", DatasetsConfig(voc="elsewhere"), str(own)) == str(own)


def test_a_set_on_s3_is_read(json_set, s3):
    from soco_core import storage

    coco = json_set("coco")
    here = open_dataset(coco.write(), "coco")
    for path in coco.root.rglob("*.*"):
        if path.is_file():
            storage.write_bytes(f"{s3}/coco/{path.relative_to(coco.root)}", path.read_bytes())
    there = open_named(f"{s3}/coco", DatasetsConfig())
    assert there.fingerprint == here.fingerprint
    image = there.train.images[0]
    assert storage.read_bytes(there.train.image_uri(image)) == Path(here.train.image_uri(image)).read_bytes()


def test_labels_are_the_sorted_folders(tmp_path):
    for name in ("train/b/1.jpg", "train/a/deep/2.jpg", "train/b/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    found = read_folder_labels(str(tmp_path), "train", Findings())
    assert found.classes == ("a", "b")
    assert list(zip(found.ids, found.labels, strict=True)) == [
        ("train/a/deep/2.jpg", 0),
        ("train/b/1.jpg", 1),
        ("train/b/3.jpg", 1),
    ]
    with pytest.raises(InputError, match="no folder val"):
        read_folder_labels(str(tmp_path), "val", Findings())


def test_pycocotools_sees_the_same_coco(shared_data, capsys):
    from pycocotools.coco import COCO

    data = open_named(str(shared_data / "coco-mini"), DatasetsConfig())
    counts = [(len(split.images), len(split.annotations)) for split in (data.train, data.val)]
    assert counts == [(131, 1023), (33, 183)]
    truth = COCO(data.train.annotation_file)
    for image in data.train.images:
        theirs = truth.loadAnns(truth.getAnnIds(imgIds=image["id"], iscrowd=None))
        mine = data.train.annotations_of[image["id"]]
        assert [(a["bbox"], a["category_id"], a["iscrowd"]) for a in mine] == [
            (a["bbox"], a["category_id"], a["iscrowd"]) for a in theirs
        ]
    assert sorted(data.train.class_of) == truth.getCatIds()


def test_torchvision_and_elementtree_see_the_same_voc(shared_data):
    root = shared_data / "voc07-mini"
    data = open_named(str(root), DatasetsConfig())
    assert (len(data.train.images), len(data.val.images)) == (224, 56)
    assert len(data.train.annotations) + len(data.val.annotations) == 877
    assert sum(item["difficult"] for split in (data.train, data.val) for item in split.annotations) == 191
    names = {item["id"]: item["name"] for item in data.train.categories}
    for image in data.train.images:
        path = root / "Annotations" / Path(image["file_name"]).with_suffix(".xml").name
        theirs = []
        for item in ElementTree.parse(path).getroot().iter("object"):
            box = item.find("bndbox")
            sides = [int(box.find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")]
            theirs.append((item.find("name").text, sides, int(item.find("difficult").text)))
        mine = []
        for item in data.train.annotations_of[image["id"]]:
            x, y, width, height = item["bbox"]
            mine.append((names[item["category_id"]], [x + 1, y + 1, x + width, y + height], item["difficult"]))
        assert mine == theirs


def test_lvis_s_own_view_is_the_same(shared_data):
    data = open_named(str(shared_data / "lvis-mini"), DatasetsConfig())
    assert (len(data.train.images), len(data.val.images)) == (30, 8)
    assert len(data.train.annotations) + len(data.val.annotations) == 456
    assert len(data.train.categories) == 1203
    lvis = pytest.importorskip("lvis")
    truth = lvis.LVIS(data.train.annotation_file)
    for image in data.train.images:
        theirs = truth.load_anns(truth.get_ann_ids(img_ids=[image["id"]]))
        assert [item["bbox"] for item in data.train.annotations_of[image["id"]]] == [item["bbox"] for item in theirs]


def test_the_fingerprint_follows_a_voc_file(voc_set):
    first = open_dataset(str(voc_set.root), "voc").train.fingerprint
    assert open_dataset(str(voc_set.root), "voc").train.fingerprint == first
    voc_set.annotations().write_text(voc_set.annotations().read_text().replace("<xmin>6<", "<xmin>5<"))
    assert open_dataset(str(voc_set.root), "voc").train.fingerprint != first


def test_no_category_may_be_missing_in_one_split(json_set):
    coco = json_set("coco")
    coco.val["categories"].pop()
    with pytest.raises(
        InputError, match=r"those of instances_train2017\.json: category 9 \('cow'\) is in one split only"
    ):
        open_dataset(coco.write(), "coco")


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_a_category_has_one_name_in_both_splits(json_set, kind):
    data = json_set(kind)
    for category, name in zip(data.val["categories"], ("dog", "cat", "cow"), strict=True):
        category["name"] = name
    with pytest.raises(InputError) as caught:
        open_dataset(data.write(), kind)
    assert "category 3 is 'cat', and 'dog' in the training split; both files must list the same ids" in str(
        caught.value
    )
    assert str(caught.value).startswith(str(data.file("val")))


def test_a_name_with_dots_is_the_file_s_plain_one(json_set):
    coco = json_set("coco")
    plain = open_dataset(coco.write(), "coco")
    coco.train["images"][0]["file_name"] = "./000000000001.jpg"
    dotted = open_dataset(coco.write(), "coco")
    assert dotted.train.images == plain.train.images
    assert dotted.train.image_uri(dotted.train.images[0]) == plain.train.image_uri(plain.train.images[0])


def test_a_byte_order_mark_is_skipped(json_set):
    coco = json_set("coco")
    place = coco.write()
    coco.file("train").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco.train).encode())
    assert len(open_dataset(place, "coco").train.images) == 2


def test_equal_coordinates_are_one_object_and_long_numbers_are_read_whole(tmp_path):
    text = '{"a": [[239.97, 1.5e2, -0.25], [239.97]], "area": 2765.1486500000005, "id": 900100002299, "n": 3}'
    (tmp_path / "a.json").write_text(text)
    content, digest = read_json(str(tmp_path / "a.json"))
    assert content == json.loads(text)
    assert content["a"][0][0] is content["a"][1][0]
    assert type(content["n"]) is int
    assert digest == hashlib.sha256(text.encode()).hexdigest()


def test_text_that_is_not_utf_8_is_one_line(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match=r"a\.json: not readable as JSON \(.*0xff.*\); download or unpack it again"):
        read_json(str(tmp_path / "a.json"))

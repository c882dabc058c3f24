from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from soco_core.datasets.split import polygons, trainable_images, usable
from soco_core.detection.coco import open_coco, open_finetuning_data
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe
from tests.detection.conftest import CocoFolder


def test_classes_follow_the_sorted_category_ids(coco_folder):
    data = open_coco(coco_folder.write())
    assert data.train.class_of == {3: 0, 7: 1}
    assert [item["id"] for item in data.train.annotations_of[1]] == [1]


def test_the_names_and_folders_of_coco_2017_are_found(coco_folder):
    place = coco_folder.write()
    for split in ("train", "val"):
        annotations = coco_folder.root / "annotations"
        (annotations / f"instances_{split}.json").rename(annotations / f"instances_{split}2017.json")
        (coco_folder.root / f"{split}2017").mkdir()
    for path in (coco_folder.root / "images").iterdir():
        path.rename(coco_folder.root / ("train2017" if int(path.stem) < 11 else "val2017") / path.name)
    data = open_coco(place)
    assert Path(data.train.folder).name == "train2017"
    assert Path(data.val.folder).name == "val2017"


def test_the_fingerprint_follows_annotations_and_images(coco_folder):
    place = coco_folder.write()
    first = open_coco(place).fingerprint
    assert open_coco(place).fingerprint == first
    coco_folder.train["annotations"][0]["bbox"][0] += 1
    coco_folder.write()
    changed = open_coco(place).fingerprint
    assert changed != first
    with (coco_folder.root / "images" / "12.png").open("ab") as file:
        file.write(b"x")
    assert open_coco(place).fingerprint != changed


def spoil_box(folder):
    folder.train["annotations"][0]["bbox"] = [30, 5, 20, 10]
    folder.train["annotations"][1]["bbox"] = [0, 0, 40, 40]


def spoil(part, index, key, value):
    def apply(folder):
        folder.train[part][index][key] = value

    return apply


def drop(part, index, key):
    def apply(folder):
        del folder.train[part][index][key]

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil_box, ["annotations[0].bbox (id 1)", "[30, 5, 20, 10]", "40x30", "2 such annotations"]),
        (spoil("annotations", 0, "bbox", [-3, 5, 20, 10]), ["annotations[0]", "outside"]),
        (spoil("annotations", 0, "bbox", [9, 5, -2, 10]), ["annotations[0]", "negative"]),
        (spoil("annotations", 0, "bbox", [1, 2, 3]), ["annotations[0].bbox"]),
        (spoil("annotations", 0, "bbox", ["a", 2, 3, 4]), ["annotations[0].bbox"]),
        (spoil("annotations", 0, "category_id", 99), ["annotations[0].category_id", "99"]),
        (spoil("annotations", 0, "image_id", 55), ["annotations[0].image_id", "55"]),
        (spoil("annotations", 0, "segmentation", 5), ["annotations[0].segmentation"]),
        (spoil("annotations", 1, "id", 1), ["annotations[1].id", "1 appears twice"]),
        (drop("images", 0, "width"), ["images[0]", "'width'"]),
        (spoil("images", 0, "height", 0), ["images[0].height", "0 is not"]),
        (lambda folder: folder.train.pop("categories"), ["'categories'"]),
        (lambda folder: folder.train.update(images=[]), ["images is empty"]),
        (lambda folder: folder.val["categories"].pop(), ["val", "categories"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(coco_folder, change, words):
    change(coco_folder)
    if not coco_folder.train["images"]:
        coco_folder.train["annotations"] = []
    if len(coco_folder.val["categories"]) == 1:
        coco_folder.val["annotations"] = coco_folder.val["annotations"][:1]
    with pytest.raises(InputError) as caught:
        open_coco(_write(coco_folder))
    text = str(caught.value)
    assert "\n" not in text
    assert "instances_" in text
    for word in words:
        assert word in text


def _write(folder) -> str:
    for split, content in (("train", folder.train), ("val", folder.val)):
        (folder.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for name in ("1.png", "2.png", "11.png", "12.png"):
        (folder.root / "images" / name).write_bytes(b"")
    return str(folder.root)


def test_missing_things_are_named(coco_folder, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_coco(str(tmp_path / "nowhere"))
    place = coco_folder.write()
    (coco_folder.root / "images" / "2.png").unlink()
    with pytest.raises(InputError, match=r"2\.png is not in .*\(1 of 2 are missing\)"):
        open_coco(place)
    shutil.rmtree(coco_folder.root / "images")
    with pytest.raises(InputError, match=r"image 1\.png is in none of"):
        open_coco(place)
    (coco_folder.root / "annotations" / "instances_val.json").write_text("{")
    with pytest.raises(InputError, match="instances_train"):
        open_coco(place)  # the training split is looked at first
    (coco_folder.root / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        open_coco(place)
    (coco_folder.root / "annotations" / "instances_train.json").unlink()
    with pytest.raises(InputError, match=r"no annotations/instances_train\.json"):
        open_coco(place)


def test_endless_nesting_is_refused(coco_folder):
    place = _write(coco_folder)
    (coco_folder.root / "annotations" / "instances_train.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"instances_train.json: not readable as JSON"):
        open_coco(place)


def test_coco_s_own_quirks_pass(coco_folder):
    rle = {"size": [30, 40], "counts": [0, 1200]}
    coco_folder.train["annotations"] += [
        coco_folder.square(3, 1, 7, [0, 0, 40, 30], iscrowd=1, segmentation=rle),
        coco_folder.square(4, 1, 7, [10, 10, 30.9, 20.5]),  # reaches over by less than a pixel
        coco_folder.square(5, 1, 7, [10, 10, 5, 0]),  # train2017 has two boxes of height 0
        coco_folder.square(6, 1, 7, [10, 10, 5, 5], segmentation=[[1, 2, 3, 4]]),  # no polygon at all
        coco_folder.square(7, 1, 7, [10, 10, 5, 5], segmentation=rle),
    ]
    coco_folder.train["images"].append({"id": 3, "file_name": "3.png", "width": 8, "height": 8})
    data = open_coco(coco_folder.write())
    assert [usable(item, True) for item in data.train.annotations_of[1]] == [True, False, True, False, False, True]
    assert data.train.annotations_of[3] == []
    assert [len(item) for item in polygons(data.train.annotations[0])] == [8]


BARE = [
    lambda item: item.pop("segmentation"),
    lambda item: item.update(segmentation=[]),
    lambda item: item.update(segmentation=None),
]


@pytest.mark.parametrize("strip", BARE)
@pytest.mark.parametrize("detector", ["retinanet", "fcos", "faster-rcnn-c4", "mask-rcnn-fpn", "mask-rcnn-c4"])
def test_only_a_detector_of_masks_needs_masks(coco_folder, strip, detector):
    for item in (*coco_folder.train["annotations"], *coco_folder.val["annotations"]):
        strip(item)
    place, recipe = coco_folder.write(), parse_recipe(f"finetune: {{detector: {detector}}}")
    if not recipe.finetune.has_masks:
        data = open_finetuning_data(place, recipe)
        assert all(usable(item, masks=False) for item in data.train.annotations)
        return
    with pytest.raises(
        InputError, match=rf"instances_train\.json: no object has a mask .* {detector} on; .*=retinanet, fcos"
    ):
        open_finetuning_data(place, recipe)


def test_detectors_of_masks_name_the_object_that_lacks_one(coco_folder):
    masks, boxes = (parse_recipe(f"finetune: {{detector: {name}}}") for name in ("mask-rcnn-fpn", "fcos"))
    coco_folder.train["annotations"][1]["segmentation"] = []
    place = coco_folder.write()
    trainable = [trainable_images(open_finetuning_data(place, r).train, r.finetune.has_masks) for r in (masks, boxes)]
    assert trainable == [[0], [0, 1]]
    coco_folder.val["annotations"][1]["segmentation"] = None
    with pytest.raises(
        InputError, match=r"instances_val\.json: annotation of id 2 has no 'segmentation' .*1 of 2 have none"
    ):
        open_finetuning_data(coco_folder.write(), masks)
    assert len(open_finetuning_data(place, boxes).val.annotations) == 2


def test_an_object_whose_polygons_are_all_wrong_serves_nobody_as_in_detectron2(coco_folder):
    wrong = coco_folder.square(3, 1, 7, [10, 10, 5, 5], segmentation=[[1, 2, 3, 4]])
    assert not usable(wrong, masks=False)
    assert usable({**wrong, "segmentation": [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]}, masks=True)


def test_nothing_to_train_on_is_said_when_the_data_are_opened(coco_folder):
    for item in coco_folder.train["annotations"]:
        item["bbox"][3] = 0
    recipe = parse_recipe("finetune: {detector: fcos}")
    with pytest.raises(InputError, match=r"instances_train\.json: no image has an annotation to train on; add objects"):
        open_finetuning_data(coco_folder.write(), recipe)


def test_a_name_is_the_data_set_and_a_folder_called_so_is_meant_by_its_path(tmp_path, coco_folder, monkeypatch):
    other = CocoFolder(tmp_path / "here" / "mini-coco-5")
    other.train["annotations"][0]["bbox"][0] += 1
    other.write()
    place = coco_folder.write()
    monkeypatch.chdir(tmp_path / "here")
    benchmark = parse_recipe("finetune: {benchmark: mini-coco-5}")
    for asked, data, recipe in (
        ("", place, benchmark),
        ("mini-coco-5", place, benchmark),
        ("mini-coco-5", None, parse_recipe(f"datasets: {{coco: {place}}}")),
    ):
        named = open_finetuning_data(asked, recipe, data)
        assert named.train.annotation_file.startswith(place)
        assert len(named.train.images) == 1
        assert named.train.subset == "5%"
    whole = open_finetuning_data("./mini-coco-5", benchmark, place)
    assert whole.train.annotations[0]["bbox"] == [6, 6, 20, 10]
    assert len(whole.train.images) == 2
    # What is no name may still be a folder without a slash.
    other.root.rename(tmp_path / "here" / "birds")
    assert len(open_finetuning_data("birds", benchmark).train.images) == 2


def test_a_list_of_images_is_read_or_refused(coco_folder, tmp_path, s3):
    place = coco_folder.write()
    (tmp_path / "ids.txt").write_text("2\n")
    recipe = parse_recipe(f"datasets: {{coco: {place}, image_ids: {tmp_path / 'ids.txt'}}}")
    assert [image["id"] for image in open_finetuning_data("mini-coco-10", recipe).train.images] == [2]
    for name in (place, "coco2017", f"{s3}/coco", ""):
        with pytest.raises(InputError, match=r"image_ids: only mini-coco-5, mini-coco-10 and coco-50pct take a list"):
            open_finetuning_data(name, recipe)


def test_real_coco_files_pass(shared_data):
    data = open_coco(str(shared_data / "coco-mini"))
    assert len(data.train.images) == 131
    assert len(data.train.categories) == 80

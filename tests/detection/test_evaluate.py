"""The evaluator against pycocotools, and what it says where there is nothing to say."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from soco_core.demo_data.stage import demo_data
from soco_core.detection.coco import open_coco
from soco_core.detection.evaluate import _results, evaluate
from soco_core.detection.masks import encode_rle
from soco_core.recipes import parse_recipe


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    recipe = parse_recipe("{demo_data: {train_images: 25, val_images: 1, unlabelled_images: 1, image_size: 128}}")
    path = demo_data(recipe, output=str(tmp_path_factory.mktemp("data"))).path / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["iscrowd"] = 1
    content["annotations"][3]["segmentation"] = rle.frPyObjects(
        {"size": [128, 128], "counts": [100, 500, 128 * 128 - 600]}, 128, 128
    )
    content["annotations"][3]["segmentation"]["counts"] = content["annotations"][3]["segmentation"]["counts"].decode()
    changed = path.with_name("changed.json")
    changed.write_text(json.dumps(content))
    return changed


def noised(path):
    """Every object found, shifted and scored at random; some missed, some named wrongly, some made up."""
    generator = np.random.default_rng(0)
    found = []
    for item in COCO(str(path)).anns.values():
        for _ in range(int(generator.integers(0, 3))):
            x, y, width, height = np.array(item["bbox"]) + generator.normal(0, 3, 4)
            x, y, width, height = max(x, 0.0), max(y, 0.0), max(width, 2.0), max(height, 2.0)
            bitmap = np.zeros((128, 128), dtype=bool)
            bitmap[int(y + height / 3) : int(y + height) + 1, int(x) : int(x + width) + 1] = True
            category = item["category_id"] if generator.random() < 0.8 else int(generator.integers(1, 7))
            found.append(
                {
                    "image_id": item["image_id"],
                    "category_id": category,
                    "bbox": [float(value) for value in (x, y, width, height)],
                    "score": float(generator.random()),
                    "segmentation": encode_rle(bitmap),
                }
            )
    return found


def reference(path, found, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(str(path))
        items = [{key: value for key, value in item.items() if kind == "bbox" or key != "bbox"} for item in found]
        evaluation = COCOeval(api, api.loadRes(items), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_the_numbers_are_pycocotools_s(truth):
    found = noised(truth)
    columns, details = evaluate(truth, found)
    for kind, table, prefix in (("bbox", details["boxes"], "APbb"), ("segm", details["masks"], "APmk")):
        wanted = reference(truth, found, kind)[:9]
        values = [-100.0 if value is None else value for value in table.values()]
        np.testing.assert_allclose(values, 100 * wanted, atol=1e-9)
        assert columns[prefix] == table["AP"]
        assert columns[prefix + "50"] == table["AP50"]
        assert columns[prefix + "75"] == table["AP75"]
    assert 1 < columns["APbb"] < columns["APbb50"] < 99


def test_the_truth_itself_is_perfect(truth):
    found = []
    for item in json.loads(truth.read_text())["annotations"]:
        if not item["iscrowd"]:
            mask = item["segmentation"]
            if isinstance(mask, list):
                mask = rle.merge(rle.frPyObjects(mask, 128, 128))
                mask["counts"] = mask["counts"].decode()
            keys = ("image_id", "category_id", "bbox")
            found.append({**{key: item[key] for key in keys}, "score": 1.0, "segmentation": mask})
    columns, _ = evaluate(truth, found)
    assert columns == {key: pytest.approx(100.0) for key in columns}


def test_no_detection_is_zero_and_nothing_to_find_is_none(truth, tmp_path):
    columns, _ = evaluate(truth, [])
    assert list(columns.values()) == [0.0] * 6
    content = json.loads(truth.read_text())
    content["annotations"] = []
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(content))
    assert list(evaluate(empty, [])[0].values()) == [None] * 6
    assert list(evaluate(empty, noised(truth))[0].values()) == [None] * 6


def test_detections_are_mapped_to_original_pixels_and_category_ids(coco_folder):
    split = open_coco(coco_folder.write()).val
    detections = {
        "boxes": torch.tensor([[10.0, 12.0, 50.0, 32.0], [70.0, 50.0, 90.0, 70.0], [85.0, 10.0, 95.0, 20.0]]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([2, 1, 1]),
        "masks": torch.ones(3, 1, 28, 28),
    }
    found = _results(detections, split, 0, (60, 80))
    assert [item["bbox"] for item in found] == [[5, 6, 20, 10], [35, 25, 5, 5]]  # the last one lies outside
    assert [item["category_id"] for item in found] == [7, 3]
    assert {item["image_id"] for item in found} == {11}
    bitmap = rle.decode(found[0]["segmentation"])
    assert bitmap.shape == (30, 40)
    assert bitmap.sum() == 200
    assert bitmap[6:16, 5:25].all()
    json.dumps(found)


def test_detectors_without_masks_give_boxes_alone(coco_folder):
    split = open_coco(coco_folder.write()).val
    detections = {
        "boxes": torch.tensor([[10.0, 12.0, 50.0, 32.0]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([1]),
    }
    (found,) = _results(detections, split, 0, (60, 80))
    assert found == {"image_id": 11, "category_id": 3, "bbox": [5, 6, 20, 10], "score": 0.5}

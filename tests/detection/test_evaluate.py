"""A detector's output as detections in COCO's result format."""

from __future__ import annotations

import json

import torch
from pycocotools import mask as rle

from soco_core.detection.coco import open_coco
from soco_core.detection.evaluate import _results


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

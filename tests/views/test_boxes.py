"""Box transforms against torchvision's bounding boxes, and box jitter by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tvf

from soco_core.views.boxes import crop_boxes, flip_boxes, has_area, jitter_boxes, resize_boxes

BOXES = np.array([[10, 20, 110, 90], [0, 0, 300, 200], [250, 150, 299, 199], [3.5, 7.25, 41.75, 60.5]], np.float32)
SIZE = (300, 200)


def tv_boxes() -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(SIZE[1], SIZE[0]))


def test_resize_equals_torchvision() -> None:
    expected = tvf.resize(tv_boxes(), [224, 224])
    np.testing.assert_allclose(resize_boxes(BOXES, SIZE, (224, 224)), expected.numpy(), atol=1e-4)


def test_crop_equals_torchvision_after_clamping() -> None:
    left, top, width, height = 40, 30, 180, 120
    expected = tvf.clamp_bounding_boxes(tvf.crop(tv_boxes(), top, left, height, width))
    np.testing.assert_allclose(crop_boxes(BOXES, (left, top, width, height)), expected.numpy(), atol=1e-4)


def test_crop_and_resize_equal_torchvision() -> None:
    left, top, width, height = 40, 30, 180, 120
    expected = tvf.clamp_bounding_boxes(tvf.resized_crop(tv_boxes(), top, left, height, width, [112, 112]))
    ours = resize_boxes(crop_boxes(BOXES, (left, top, width, height)), (width, height), (112, 112))
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4)


def test_flip_equals_torchvision() -> None:
    np.testing.assert_allclose(flip_boxes(BOXES, SIZE[0]), tvf.horizontal_flip(tv_boxes()).numpy(), atol=1e-4)


def test_boxes_outside_a_crop_have_no_area() -> None:
    cropped = crop_boxes(BOXES, (120, 100, 100, 40))
    assert has_area(cropped).tolist() == [False, True, False, False]


def test_jitter_by_hand() -> None:
    # Centre (50, 40), size 40 x 20; x + .1 * 40 = 54, y - .05 * 20 = 39, w = 44, h = 18.
    box = np.array([[30, 30, 70, 50]], np.float32)
    jittered = jitter_boxes(box, np.array([[0.1, -0.05, 0.1, -0.1]]))
    np.testing.assert_allclose(jittered, [[32, 30, 76, 48]], atol=1e-5)


@pytest.mark.parametrize("boxes", [BOXES, BOXES[:0]])
def test_no_offset_leaves_boxes_alone(boxes: np.ndarray) -> None:
    np.testing.assert_allclose(jitter_boxes(boxes, np.zeros((len(boxes), 4))), boxes, atol=1e-5)

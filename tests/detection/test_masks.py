from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from soco_core.detection.masks import decode_rle, encode_rle, mask_target, paste_mask


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)


def test_a_polygon_is_rasterised_in_the_box_s_own_grid():
    # The box is 40 x 20, the object its lower left quarter.
    target = mask_target([rectangle(10, 30, 30, 40)], np.array([10.0, 20.0, 50.0, 40.0]), 4)
    assert target.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_two_polygons_are_one_object():
    parts = [rectangle(0, 0, 2, 8), rectangle(6, 0, 8, 8)]
    assert mask_target(parts, np.array([0.0, 0.0, 8.0, 8.0]), 4).tolist() == [[1, 0, 0, 1]] * 4


def test_a_bitmap_is_pooled_from_its_box():
    bitmap = np.zeros((40, 60), dtype=np.uint8)
    bitmap[30:40, 10:30] = 1
    target = mask_target(bitmap, np.array([10.0, 20.0, 50.0, 40.0]), 4)
    assert target.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_a_full_mask_pastes_as_its_box():
    pasted = paste_mask(torch.ones(28, 28), torch.tensor([4.0, 6.0, 14.0, 26.0]), 30, 20)
    wanted = np.zeros((30, 20), dtype=bool)
    wanted[6:26, 4:14] = True
    np.testing.assert_array_equal(pasted, wanted)


def test_pasting_reaches_the_image_s_border_and_follows_the_mask():
    mask = torch.zeros(28, 28)
    mask[:, 14:] = 1.0
    pasted = paste_mask(mask, torch.tensor([0.0, 0.0, 20.0, 10.0]), 10, 20)
    np.testing.assert_array_equal(pasted, np.arange(20)[None, :].repeat(10, 0) >= 10)


def test_rle_goes_both_ways_compressed_and_not():
    bitmap = np.zeros((5, 7), dtype=bool)
    bitmap[1:4, 2:5] = True
    encoded = encode_rle(bitmap)
    assert isinstance(encoded["counts"], str)
    np.testing.assert_array_equal(decode_rle(encoded, 5, 7).astype(bool), bitmap)
    # Column by column: 11 zeros, then three runs of 3 ones with 2 zeros between them.
    plain = {"size": [5, 7], "counts": [11, 3, 2, 3, 2, 3, 11]}
    np.testing.assert_array_equal(decode_rle(plain, 5, 7).astype(bool), bitmap)
    assert rle.area(rle.frPyObjects(plain, 5, 7)) == pytest.approx(9)

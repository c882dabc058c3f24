"""Boxes under resizing, cropping and flipping, and box jitter (paper 3.2).

Boxes are XYXY, float32 [N, 4], in pixels of the image or view they belong to; a pixel is a unit square,
so that an image of width W spans [0, W].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]


def resize_boxes(boxes: Boxes, old_size: tuple[int, int], new_size: tuple[int, int]) -> Boxes:
    """Follow a resize from `old_size` to `new_size`, both (width, height)."""
    sx, sy = new_size[0] / old_size[0], new_size[1] / old_size[1]
    return (boxes * np.array([sx, sy, sx, sy])).astype(np.float32)


def crop_boxes(boxes: Boxes, crop: tuple[int, int, int, int]) -> Boxes:
    """Follow a crop (left, top, width, height): shift, then clip; boxes outside come out without area."""
    left, top, width, height = crop
    shifted = (boxes - np.array([left, top, left, top])).astype(np.float32)
    return clip_boxes(shifted, (width, height))


def clip_boxes(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Clip to an image of `size` (width, height)."""
    width, height = size
    return np.clip(boxes, 0, np.array([width, height, width, height])).astype(np.float32)


def flip_boxes(boxes: Boxes, width: int) -> Boxes:
    """Follow a horizontal flip of an image of `width` pixels."""
    flipped = boxes.copy()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return flipped


def has_area(boxes: Boxes, least_side: float = 1.0) -> npt.NDArray[np.bool_]:
    """Tell which boxes are at least `least_side` pixels wide and high, bool [N]."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray((sides >= least_side).all(axis=1))


def jitter_boxes(boxes: Boxes, offsets: npt.NDArray[np.float64]) -> Boxes:
    """Jitter centre and size: x + r_x w, y + r_y h, w + r_w w, h + r_h h (3.2, "Box Jitter").

    Args:
        boxes: XYXY, [N, 4].
        offsets: (r_x, r_y, r_w, r_h) of each box, [N, 4]; zeros leave a box as it is.
    """
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + size / 2 + offsets[:, :2] * size
    half = size * (1 + offsets[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)

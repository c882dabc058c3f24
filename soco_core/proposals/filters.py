"""Which boxes of selective search become proposals (3.2), and what an image falls back to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from soco_core.artifacts.proposals import FilterStep
from soco_core.config import ProposalsConfig

# The bounds belong to the range. Sides are whole pixels, so two different ratios of an image within
# Pillow's pixel limit differ by more than this, and rounding alone cannot move a box across a bound.
TOLERANCE = 1e-9


def filter_boxes(
    boxes: npt.NDArray[np.float32], width: int, height: int, config: ProposalsConfig
) -> tuple[npt.NDArray[np.float32], FilterStep]:
    """Keep the boxes that meet the paper's requirements, or those of the first fallback that any box meets.

    1. ``strict``: 1/r <= w/h <= r and low <= sqrt(wh)/sqrt(WH) <= high (3.2), and w, h >= ``min_side``;
    2. ``aspect_ratio``: the first of these only;
    3. ``min_side``: w, h >= ``fallback_min_side`` only;
    4. ``whole_image``: one box, the image.

    The paper does not say what happens to an image without a proposal; the order is the authors' code's.
    A box without width or height has no aspect ratio, and meets none of them.

    Args:
        boxes: [N, 4], x1 y1 x2 y2 in pixels.
        width: W of the image.
        height: H of the image.
        config: the bounds.

    Returns:
        The kept boxes [M, 4], M >= 1, in their order, and the step that kept them.
    """
    w, h = _sides(boxes)
    shaped = _shaped(w, h, config)
    steps: tuple[tuple[FilterStep, npt.NDArray[np.bool_]], ...] = (
        ("strict", shaped & _sized(w, h, width, height, config)),
        ("aspect_ratio", shaped),
        ("min_side", np.minimum(w, h) >= config.fallback_min_side),
    )
    for step, keep in steps:
        if keep.any():
            return boxes[keep], step
    return np.array([[0, 0, width, height]], dtype=np.float32), "whole_image"


def meets_requirements(
    boxes: npt.NDArray[np.float32], width: int, height: int, config: ProposalsConfig
) -> npt.NDArray[np.bool_]:
    """Tell which boxes [N, 4] the step ``strict`` of :func:`filter_boxes` keeps."""
    w, h = _sides(boxes)
    return _shaped(w, h, config) & _sized(w, h, width, height, config)


def _sides(boxes: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    return x2 - x1, y2 - y1


def _shaped(w: npt.NDArray[np.float64], h: npt.NDArray[np.float64], config: ProposalsConfig) -> npt.NDArray[np.bool_]:
    ratio = config.max_aspect_ratio * (1 + TOLERANCE)
    return (w > 0) & (h > 0) & (w <= ratio * h) & (h <= ratio * w)


def _sized(
    w: npt.NDArray[np.float64], h: npt.NDArray[np.float64], width: int, height: int, config: ProposalsConfig
) -> npt.NDArray[np.bool_]:
    size = np.sqrt(w * h) / np.sqrt(float(width) * height)
    low, high = config.min_relative_size - TOLERANCE, config.max_relative_size + TOLERANCE
    return (size >= low) & (size <= high) & (np.minimum(w, h) >= config.min_side)


def distinct_boxes(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Keep each box [N, 4] once, where it first stands: proposals are a set (3.2)."""
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]

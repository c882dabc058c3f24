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

    Args:
        boxes: [N, 4], x1 y1 x2 y2 in pixels.
        width: W of the image.
        height: H of the image.
        config: the bounds.

    Returns:
        The kept boxes [M, 4], M >= 1, in their order, and the step that kept them.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    w, h = x2 - x1, y2 - y1
    size = np.sqrt(w * h) / np.sqrt(float(width) * height)
    ratio = config.max_aspect_ratio * (1 + TOLERANCE)
    shaped = (w <= ratio * h) & (h <= ratio * w)
    sized = (size >= config.min_relative_size - TOLERANCE) & (size <= config.max_relative_size + TOLERANCE)
    shortest = np.minimum(w, h)
    steps: tuple[tuple[FilterStep, npt.NDArray[np.bool_]], ...] = (
        ("strict", shaped & sized & (shortest >= config.min_side)),
        ("aspect_ratio", shaped),
        ("min_side", shortest >= config.fallback_min_side),
    )
    for step, keep in steps:
        if keep.any():
            return boxes[keep], step
    return np.array([[0, 0, width, height]], dtype=np.float32), "whole_image"

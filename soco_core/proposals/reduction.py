"""Searching a large image on a reduced copy, and bringing its boxes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ReducedSearch:
    """The engine of a search whose cost grows faster than the area."""

    find: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
    """From uint8 RGB [h, w, 3] to float32 [N, 4], x1 y1 x2 y2 in its pixels."""
    max_long_side: int
    """Larger images are searched on a copy reduced to this, in pixels."""

    def search(self, image_id: str, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the boxes in pixels of the image, in the order in which they were found."""
        copy = reduce_image(image, self.max_long_side)
        return scale_back(self.find(copy), copy, image)


def needs_reduction(image: npt.NDArray[np.uint8], max_long_side: int) -> bool:
    """Tell whether an image [H, W, 3] is searched on a reduced copy."""
    return max(image.shape[:2]) > max_long_side


def reduce_image(image: npt.NDArray[np.uint8], max_long_side: int) -> npt.NDArray[np.uint8]:
    """Return the image, or a copy whose long side is `max_long_side` pixels and whose short side is at least one.

    Args:
        image: uint8 [H, W, 3].
        max_long_side: in pixels.

    Returns:
        uint8 [h, w, 3]; each of its pixels is the mean of those that it replaces.
    """
    if not needs_reduction(image, max_long_side):
        return image
    height, width = image.shape[:2]
    factor = max_long_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def scale_back(
    boxes: npt.NDArray[np.float32], copy: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Return boxes of a reduced copy in pixels of the image; order and distinctness stay.

    Args:
        boxes: [N, 4], x1 y1 x2 y2 in pixels of the copy.
        copy: uint8 [h, w, 3].
        image: uint8 [H, W, 3].

    Returns:
        float32 [N, 4], inside the image.
    """
    if copy.shape == image.shape:
        return boxes
    factors = np.array([image.shape[1], image.shape[0]] * 2) / np.array([copy.shape[1], copy.shape[0]] * 2)
    # The product is off by parts of 1e-16, and the rounding takes that back: an edge stays an edge.
    return (boxes * factors).astype(np.float32)

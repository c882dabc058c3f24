"""Selective search with OpenCV, at the paper's parameters (3.2, appendix A.1).

One graph segmentation of the BGR image, regions grouped by colour, texture, size and fill with equal
weights. OpenCV differs in detail from the pure-Python implementation that the authors ran (which regions
count as neighbours, the texture measure): docs/proposals.md says by how much.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from soco_core.config import ProposalsConfig

MAX_LONG_SIDE = 1000
"""Images with a longer side are searched on a copy reduced to this: the cost grows faster than the area."""


def needs_reduction(image: npt.NDArray[np.uint8]) -> bool:
    """Tell whether an image [H, W, 3] is searched on a reduced copy."""
    return max(image.shape[:2]) > MAX_LONG_SIDE


def selective_search(image: npt.NDArray[np.uint8], config: ProposalsConfig) -> npt.NDArray[np.float32]:
    """Find the boxes of all regions of the grouping.

    OpenCV draws the order of its boxes from libc's ``rand()``, but not which boxes there are; sorted,
    they are the same in every run.

    Args:
        image: uint8 RGB [H, W, 3], of any size from 1x1.
        config: ``scale``, ``sigma`` and ``min_size``.

    Returns:
        float32 [N, 4], N >= 1: x1 y1 x2 y2 in pixels, inside the image, each once, sorted.
    """
    height, width = image.shape[:2]
    searched = cv2.cvtColor(_reduced(image), cv2.COLOR_RGB2BGR)
    segmentation = cv2.ximgproc.segmentation
    search = segmentation.createSelectiveSearchSegmentation()
    search.addImage(searched)
    search.addGraphSegmentation(
        segmentation.createGraphSegmentation(config.sigma, float(config.scale), config.min_size)
    )
    search.addStrategy(
        segmentation.createSelectiveSearchSegmentationStrategyMultiple(
            segmentation.createSelectiveSearchSegmentationStrategyColor(),
            segmentation.createSelectiveSearchSegmentationStrategyTexture(),
            segmentation.createSelectiveSearchSegmentationStrategySize(),
            segmentation.createSelectiveSearchSegmentationStrategyFill(),
        )
    )
    found = np.unique(np.asarray(search.process(), dtype=np.int64).reshape(-1, 4), axis=0)
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1).astype(np.float64)
    back = np.array([width, height] * 2) / np.array([searched.shape[1], searched.shape[0]] * 2)
    return np.unique(corners * back, axis=0).astype(np.float32)


def _reduced(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if not needs_reduction(image):
        return image
    height, width = image.shape[:2]
    factor = MAX_LONG_SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)

"""Selective search with OpenCV, at the paper's parameters (3.2, appendix A.1) or in OpenCV's own modes.

OpenCV differs in detail from the pure-Python implementation that the authors ran (which regions count as
neighbours, the texture measure, the colours): docs/proposals.md says by how much.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from soco_core.config import ProposalsConfig

# The 8-bit conversions of OpenCV's own modes.
CONVERSIONS = {"hsv": cv2.COLOR_BGR2HSV, "lab": cv2.COLOR_BGR2Lab}


def opencv_search(image: npt.NDArray[np.uint8], config: ProposalsConfig) -> npt.NDArray[np.float32]:
    """Find the boxes of all regions of all groupings.

    OpenCV draws the order of its boxes from libc's ``rand()``, but not which boxes there are; sorted,
    they are the same in every run.

    Args:
        image: uint8 RGB [H, W, 3], of any size from 1x1.
        config: ``opencv_mode``; for `single` also ``scale``, ``sigma``, ``min_size``, ``opencv_colours`` and
            ``opencv_strategies``.

    Returns:
        float32 [N, 4], N >= 1: x1 y1 x2 y2 in pixels, inside the image, each once, sorted.
    """
    # Of any other type OpenCV finds other boxes, or one, without a word.
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # A new one for each image: the strategies keep histograms under a number that begins at 0 again.
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    if config.opencv_mode == "single":
        _compose(search, bgr, config)
    else:
        search.setBaseImage(bgr)
        if config.opencv_mode == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
    found = np.asarray(search.process(), dtype=np.int64).reshape(-1, 4)  # x, y, w, h
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return np.unique(corners, axis=0).astype(np.float32)


def _compose(search: Any, bgr: npt.NDArray[np.uint8], config: ProposalsConfig) -> None:
    """One graph segmentation of each colour space, grouped by each strategy, as OpenCV composes its modes."""
    segmentation = cv2.ximgproc.segmentation
    for space in config.opencv_colours:
        search.addImage(bgr if space == "bgr" else cv2.cvtColor(bgr, CONVERSIONS[space]))
    search.addGraphSegmentation(
        segmentation.createGraphSegmentation(config.sigma, float(config.scale), config.min_size)
    )
    # No measure is shared between two strategies: each holds what it merged.
    together = segmentation.createSelectiveSearchSegmentationStrategyMultiple
    colour = segmentation.createSelectiveSearchSegmentationStrategyColor
    texture = segmentation.createSelectiveSearchSegmentationStrategyTexture
    size = segmentation.createSelectiveSearchSegmentationStrategySize
    fill = segmentation.createSelectiveSearchSegmentationStrategyFill
    search.addStrategy(together(colour(), texture(), size(), fill()))
    if config.opencv_strategies >= 2:
        search.addStrategy(together(texture(), size(), fill()))
    if config.opencv_strategies == 4:
        search.addStrategy(fill())
        search.addStrategy(size())

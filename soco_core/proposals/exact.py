"""The selective search whose parameters the paper gives (A.1), compiled.

The authors ran the pure-Python package `selectivesearch`. This finds the same boxes in the same order, in less than a
tenth of the time: segmentation, texture, neighbours and grouping are loops that numba compiles.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from soco_core.proposals.exact_grouping import group
from soco_core.proposals.exact_kernels import local_binary_patterns, measure_regions, overlapping_pairs
from soco_core.proposals.exact_segments import segment

COLOUR_BINS, TEXTURE_BINS = 25, 10
TEXTURE_RANGES = {"unit": (0.0, 1.0), "byte": (0.0, 255.0)}

# The package bins hue, saturation and value over 0..255. Hue and saturation lie in 0..1, so every pixel is in the first
# bin of either, and in these 2 x 25 bins any two regions have 1 + 1 in common, before and after each grouping.
COLOUR_BASE = 2.0


def exact_search(
    image: npt.NDArray[np.uint8], *, scale: int, sigma: float, min_size: int, texture_range: Literal["unit", "byte"]
) -> npt.NDArray[np.float32]:
    """Find the boxes of all regions and groups, as ``selectivesearch.selective_search`` 0.4 does.

    Regions are those of Felzenszwalb's segmentation; they are neighbours when a corner of the later one's box lies
    inside the box of the earlier one. The most alike (by value, texture, size and fill) are grouped first.

    Args:
        image: uint8 RGB [H, W, 3], of any size from 1x1.
        scale: of the segmentation; higher means fewer, larger regions.
        sigma: of the Gaussian that smooths the image before, in pixels.
        min_size: least pixels of a region.
        texture_range: range of the 10 bins of the local binary patterns, which are 0..255: `unit` 0..1, as the package
            has it, so that only the codes 0 and 1 count; `byte` 0..255, as the authors' copy of it.

    Returns:
        float32 [N, 4], N >= 1: x1 y1 x2 y2 in pixels, inside the image, regions as they first appear, then groups as
        they arise; not unique. x2 and y2 are those of the last pixel, as in the package: one less than the region's
        edge, so a region one pixel wide has no width.
    """
    image = np.ascontiguousarray(image)
    labels = segment(image, scale=scale, sigma=sigma, min_size=min_size)
    codes = np.stack([local_binary_patterns(np.ascontiguousarray(image[:, :, channel])) for channel in range(3)])
    regions = int(labels.max()) + 1
    boxes = np.empty((regions, 4), np.int32)
    counts = np.zeros((regions, COLOUR_BINS + 3 * TEXTURE_BINS), np.int32)
    measure_regions(image, labels, codes, columns_of_bytes(texture_range), boxes, counts)
    sizes = counts[:, :COLOUR_BINS].sum(axis=1, dtype=np.int64)
    used = np.flatnonzero(counts.any(axis=0))  # a bin that is empty in all regions is so in all groups: it adds nothing
    shares = np.ascontiguousarray(counts[:, used] / sizes[:, None])
    colours = int((used < COLOUR_BINS).sum())
    found = group(overlapping_pairs(boxes), boxes, sizes, shares, colours, COLOUR_BASE, labels.size)
    return found.astype(np.float32)


@cache
def columns_of_bytes(texture_range: Literal["unit", "byte"]) -> npt.NDArray[np.int64]:
    """Return the column of the histograms for each value, and for each texture code of R, G and B [4, 256]; or -1."""
    texture = bins_of_bytes(TEXTURE_BINS, TEXTURE_RANGES[texture_range])
    columns = np.stack([bins_of_bytes(COLOUR_BINS, (0.0, 255.0)), texture, texture, texture])
    first = np.array([0, COLOUR_BINS, COLOUR_BINS + TEXTURE_BINS, COLOUR_BINS + 2 * TEXTURE_BINS])
    return np.where(columns < 0, -1, columns + first[:, None])


def bins_of_bytes(count: int, limits: tuple[float, float]) -> npt.NDArray[np.int64]:
    """Tell into which of `count` equal bins from 0 numpy puts each value 0..255, or -1 where it leaves it out."""
    bins = np.full(256, -1)
    counts = np.histogram(np.arange(256.0), count, limits)[0]
    bins[: counts.sum()] = np.repeat(np.arange(count), counts)
    return bins

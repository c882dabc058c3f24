"""The loops of `exact` over pixels and boxes, compiled: texture codes, regions, and which of them are neighbours."""

from __future__ import annotations

from math import floor

import numpy as np
import numpy.typing as npt

from soco_core.proposals.exact_compiled import compiled

DIAGONAL = 0.70711  # skimage rounds the sampling points of its circle to five places


@compiled("uint8[:,::1](uint8[:,::1])")
def local_binary_patterns(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Code each pixel by which of 8 points on a circle of radius 1 are at least as bright.

    Equal to ``skimage.feature.local_binary_pattern(plane, 8, 1.0)``: bit 0 is the point to the right, further ones
    follow anticlockwise; the diagonal ones are interpolated bilinearly; outside the image lies 0.

    Args:
        plane: one channel [H, W].

    Returns:
        Codes 0..255 [H, W].
    """
    height, width = plane.shape
    codes = np.empty((height, width), np.uint8)
    # The weights differ in their last bits from one column (or row) to the next, as they do in skimage: over a flat
    # area it is these bits that say whether the interpolated point is "at least as bright".
    left, right = np.empty(width), np.empty(width)
    for x in range(width):
        left[x] = x - DIAGONAL - floor(x - DIAGONAL)
        right[x] = x + DIAGONAL - floor(x + DIAGONAL)
    # Row buffers: pixels with a zero at either end, and the row interpolated at the points to the left and right.
    values = np.zeros((3, width + 2))
    at_left, at_right = np.zeros((3, width)), np.zeros((3, width))
    for y in range(-1, height):
        above, here, below = (y + 2) % 3, (y + 3) % 3, (y + 1) % 3
        for x in range(width):
            values[below, x + 1] = plane[y + 1, x] if y + 1 < height else 0
        for x in range(width):
            at_left[below, x] = (1 - left[x]) * values[below, x] + left[x] * values[below, x + 1]
            at_right[below, x] = (1 - right[x]) * values[below, x + 1] + right[x] * values[below, x + 2]
        if y < 0:
            continue
        up = y - DIAGONAL - floor(y - DIAGONAL)
        down = y + DIAGONAL - floor(y + DIAGONAL)
        for x in range(width):
            centre = values[here, x + 1]
            code = np.uint8(values[here, x + 2] >= centre)
            code |= np.uint8((1 - up) * at_right[above, x] + up * at_right[here, x] >= centre) << 1
            code |= np.uint8(values[above, x + 1] >= centre) << 2
            code |= np.uint8((1 - up) * at_left[above, x] + up * at_left[here, x] >= centre) << 3
            code |= np.uint8(values[here, x] >= centre) << 4
            code |= np.uint8((1 - down) * at_left[here, x] + down * at_left[below, x] >= centre) << 5
            code |= np.uint8(values[below, x + 1] >= centre) << 6
            code |= np.uint8((1 - down) * at_right[here, x] + down * at_right[below, x] >= centre) << 7
            codes[y, x] = code
    return codes


@compiled("void(uint8[:,:,::1], int32[:,::1], uint8[:,:,::1], int64[:,::1], int32[:,::1], int32[:,::1])")
def measure_regions(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    codes: npt.NDArray[np.uint8],
    bins: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
) -> None:
    """Find each region's box, and count its pixels by value (of HSV) and by the texture codes of R, G and B.

    Args:
        image: RGB [H, W, 3].
        labels: the region of each pixel [H, W], 0..N-1.
        codes: texture codes of the channels [3, H, W].
        bins: the columns of `counts` for the 256 values, and for the 256 codes of each channel [4, 256]; or -1.
        boxes: [N, 4]; becomes least x, least y, largest x, largest y.
        counts: [N, columns] of zeros; becomes the pixels in each column.
    """
    boxes[:, :2] = 0xFFFF
    boxes[:, 2:] = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            region = labels[y, x]
            boxes[region, 0] = min(boxes[region, 0], x)
            boxes[region, 1] = min(boxes[region, 1], y)
            boxes[region, 2] = max(boxes[region, 2], x)
            boxes[region, 3] = max(boxes[region, 3], y)
            value = max(image[y, x, 0], image[y, x, 1], image[y, x, 2])
            counts[region, bins[0, value]] += 1
            for channel in range(3):
                column = bins[channel + 1, codes[channel, y, x]]
                if column >= 0:
                    counts[region, column] += 1


@compiled("int32[:,::1](int32[:,::1])")
def overlapping_pairs(boxes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """List the pairs (a, b), a < b, of which b's box has a corner strictly inside a's, by a and then by b.

    Args:
        boxes: [N, 4], ordered by their least y.

    Returns:
        Pairs of row numbers [P, 2].
    """
    pairs = np.empty((0, 2), np.int32)
    for filling in (False, True):
        found = 0
        for a in range(len(boxes)):
            x1, y1, x2, y2 = boxes[a]
            for b in range(a + 1, len(boxes)):
                if boxes[b, 1] >= y2:
                    break  # so do all that follow
                if (x1 < boxes[b, 0] < x2 or x1 < boxes[b, 2] < x2) and (
                    y1 < boxes[b, 1] < y2 or y1 < boxes[b, 3] < y2
                ):
                    if filling:
                        pairs[found, 0], pairs[found, 1] = a, b
                    found += 1
        if not filling:
            pairs = np.empty((found, 2), np.int32)
    return pairs

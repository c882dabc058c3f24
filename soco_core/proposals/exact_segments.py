"""Felzenszwalb and Huttenlocher's segmentation, equal to scikit-image's and several times as fast.

scikit-image spends its time on lists of edges that need not be written down, on a sort that is slow on many processors,
and on trees that it does not keep flat.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt
from skimage.filters import gaussian
from skimage.util import img_as_float

from soco_core.proposals.exact_compiled import compiled


def segment(image: npt.NDArray[np.uint8], *, scale: float, sigma: float, min_size: int) -> npt.NDArray[np.int32]:
    """Segment an image as ``skimage.segmentation.felzenszwalb`` 0.26 does.

    Args:
        image: uint8 RGB [H, W, 3].
        scale: higher means fewer, larger segments.
        sigma: of the Gaussian that smooths the image before, in pixels.
        min_size: smaller segments, in pixels, are joined to a neighbour.

    Returns:
        Segments 0..N-1 [H, W], numbered as they first appear, row by row.
    """
    height, width = image.shape[:2]
    smooth = gaussian(img_as_float(image), sigma=[sigma, sigma, 0], mode="reflect", channel_axis=-1)
    costs = edge_costs(np.ascontiguousarray(smooth))
    labels, certain = join(costs, rising(costs), height, width, scale / 255.0, min_size)
    if not certain:
        # Edges of equal costs follow each other in the order of scikit-image's sort, which depends on the processor.
        order = np.argsort(costs).astype(np.uint32)
        labels, _ = join(costs, order, height, width, scale / 255.0, min_size)
    return labels


@compiled("float64[::1](float64[:,:,::1])")
def edge_costs(smooth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Measure the colour distance of each pixel to its neighbours.

    Args:
        smooth: [H, W, 3].

    Returns:
        The costs of all edges to the right, then down, then down to the right, then up to the right, each row by row.
    """
    height, width = smooth.shape[:2]
    costs = np.empty(height * (width - 1) + (height - 1) * (2 * (width - 1) + width))
    edge = 0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for y in range(height - down):
            for x in range(max(0, -right), width - max(0, right)):
                total = 0.0
                for channel in range(3):
                    difference = smooth[y + down, x + right, channel] - smooth[y, x, channel]
                    total += difference * difference
                costs[edge] = sqrt(total)
                edge += 1
    return costs


@compiled("uint32[::1](float64[::1])")
def rising(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """Return the numbers of the edges by rising cost, equal ones by rising number: a radix sort.

    Args:
        costs: at least 0; so their bits, read as integers, have the same order.
    """
    digits, base = 6, 2048  # 6 digits of 11 bits
    keys, other_keys = costs.view(np.uint64).copy(), np.empty(len(costs), np.uint64)
    order, other_order = np.arange(len(costs)).astype(np.uint32), np.empty(len(costs), np.uint32)
    places = np.zeros((digits, base), np.int64)
    for key in keys:
        for digit in range(digits):
            places[digit, (key >> np.uint64(11 * digit)) & np.uint64(base - 1)] += 1
    for digit in range(digits):
        place = 0
        for value in range(base):
            count = places[digit, value]
            places[digit, value] = place
            place += count
        for k in range(len(keys)):
            own = (keys[k] >> np.uint64(11 * digit)) & np.uint64(base - 1)
            other_keys[places[digit, own]], other_order[places[digit, own]] = keys[k], order[k]
            places[digit, own] += 1
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    return order


@compiled("UniTuple(int64, 2)(int64, int64, int64)")
def _ends(edge: int, height: int, width: int) -> tuple[int, int]:
    """Return the two pixels of an edge, as y * W + x."""
    sideways = height * (width - 1)
    if edge < sideways:
        pixel = edge + edge // (width - 1)
        return pixel, pixel + 1
    edge -= sideways
    if edge < (height - 1) * width:
        return edge, edge + width
    edge -= (height - 1) * width
    diagonal = (height - 1) * (width - 1)
    if edge < diagonal:
        pixel = edge + edge // (width - 1)
        return pixel, pixel + width + 1
    pixel = edge - diagonal + (edge - diagonal) // (width - 1)
    return pixel + 1, pixel + width


@compiled("int32(int32[::1], int32)")
def _root(forest: npt.NDArray[np.int32], pixel: int) -> int:
    while forest[pixel] < pixel:
        forest[pixel] = forest[forest[pixel]]
        pixel = forest[pixel]
    return pixel


@compiled("Tuple((int32[:,::1], boolean))(float64[::1], uint32[::1], int64, int64, float64, int64)")
def join(
    costs: npt.NDArray[np.float64], order: npt.NDArray[np.uint32], height: int, width: int, scale: float, min_size: int
) -> tuple[npt.NDArray[np.int32], bool]:
    """Join pixels along edges that cost less than the segments' inner costs, then segments that are too small.

    Args:
        costs: of the edges, in the order of :func:`edge_costs`.
        order: numbers of the edges by rising cost; overwritten.
        height: H.
        width: W.
        scale: of colours in 0..1.
        min_size: in pixels.

    Returns:
        Segments 0..N-1 [H, W], numbered as they first appear; and whether they are the same whatever the order of edges
        of equal cost.
    """
    forest = np.arange(height * width).astype(np.int32)  # the root of a segment is its first pixel
    sizes = np.ones(height * width, np.int32)
    inner = np.zeros(height * width)
    certain = True
    between = 0
    for edge in order:
        one, other = _ends(edge, height, width)
        first, second = _root(forest, one), _root(forest, other)
        if first == second:
            continue
        cost = costs[edge]
        if cost < min(
            np.float32(inner[first] + scale / sizes[first]), np.float32(inner[second] + scale / sizes[second])
        ):
            first, second = min(first, second), max(first, second)
            forest[second] = first
            sizes[first] += sizes[second]
            inner[first] = cost
            # As long as a joined segment takes further edges of this cost, their order does not matter: they join all
            # that took edges of this cost before. Only rounding can end that.
            certain = certain and cost < np.float32(cost + scale / sizes[first])
        else:
            order[between] = edge  # a place that has been read
            between += 1
    inner[:] = -1.0
    for edge in order[:between]:
        one, other = _ends(edge, height, width)
        first, second = _root(forest, one), _root(forest, other)
        if first == second:
            continue
        cost = costs[edge]
        # A segment that grew by an edge of the same cost could have grown by this one instead.
        certain = certain and inner[first] != cost and inner[second] != cost
        if min(sizes[first], sizes[second]) < min_size:
            first, second = min(first, second), max(first, second)
            forest[second] = first
            sizes[first] += sizes[second]
            inner[first] = cost
    labels = np.empty(height * width, np.int32)
    segments = 0
    for pixel in range(height * width):
        if forest[pixel] == pixel:
            labels[pixel] = segments
            segments += 1
        else:
            labels[pixel] = labels[forest[pixel]]
    return labels.reshape((height, width)), certain

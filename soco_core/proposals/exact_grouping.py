"""The grouping of `exact`, compiled: the most similar pair of regions becomes one, until no pair is left.

The package sorts a dictionary of all similarities in each round and takes the last; a heap finds the same pair.
As its sort is stable, and a dictionary keeps the order of insertion, the last of equal similarities is the one that
was inserted last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from soco_core.proposals.exact_kernels import compiled

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@compiled("float64(int64, int64, int32[:,::1], int64[::1], float64[:,::1], int64, float64, int64)")
def similarity(
    i: int, j: int, boxes: Ints, sizes: Longs, shares: Floats, colours: int, colour_base: float, image_size: int
) -> float:
    """Add up how alike two regions are: in colour, texture and size, and how well they fill their common box.

    Args:
        i: number of the one region, a row of the arrays.
        j: number of the other.
        boxes: least x, least y, largest x, largest y of each region [N, 4].
        sizes: pixels of each region [N].
        shares: of the pixels of each region in each bin [N, bins], the bins of colour first.
        colours: number of colour bins.
        colour_base: what colour bins that are not in `shares` contribute; they come before those that are.
        image_size: pixels of the image.
    """
    colour = colour_base
    for k in range(colours):
        colour += min(shares[i, k], shares[j, k])
    texture = 0.0
    for k in range(colours, shares.shape[1]):
        texture += min(shares[i, k], shares[j, k])
    width = np.int64(max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0]))
    height = np.int64(max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1]))
    both = sizes[i] + sizes[j]
    return colour + texture + (1.0 - both / image_size) + (1.0 - (width * height - both) / image_size)


@compiled("void(int64, int64, int32[:,::1], int64[::1], float64[:,::1])")
def _merge(i: int, j: int, boxes: Ints, sizes: Longs, shares: Floats) -> None:
    """Put the group of two regions in the row of the first."""
    both = sizes[i] + sizes[j]
    for k in range(shares.shape[1]):
        shares[i, k] = (shares[i, k] * sizes[i] + shares[j, k] * sizes[j]) / both
    sizes[i] = both
    for k in range(2):
        boxes[i, k] = min(boxes[i, k], boxes[j, k])
        boxes[i, 2 + k] = max(boxes[i, 2 + k], boxes[j, 2 + k])


@compiled("boolean(int64, int64, float64[::1], int64[::1])")
def _before(p: int, q: int, values: Floats, ages: Longs) -> bool:
    return values[p] > values[q] or (values[p] == values[q] and ages[p] > ages[q])


@compiled("void(int64, int64, int32[::1], int32[::1], float64[::1], int64[::1])")
def _settle(at: int, count: int, heap: Ints, places: Ints, values: Floats, ages: Longs) -> None:
    """Move the pair at a place of the heap up or down to where it belongs."""
    pair = heap[at]
    while at and _before(pair, heap[(at - 1) // 2], values, ages):
        heap[at] = heap[(at - 1) // 2]
        places[heap[at]] = at
        at = (at - 1) // 2
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _before(heap[child + 1], heap[child], values, ages):
            child += 1
        if not _before(heap[child], pair, values, ages):
            break
        heap[at] = heap[child]
        places[heap[at]] = at
        at = child
    heap[at] = pair
    places[pair] = at


@compiled("void(int64, int64, int32[::1], int32[::1], float64[::1], int64[::1])")
def _remove(pair: int, count: int, heap: Ints, places: Ints, values: Floats, ages: Longs) -> None:
    """Take a pair out of the heap, which then has `count` left: the last one takes its place."""
    at = places[pair]
    heap[at] = heap[count]
    places[heap[at]] = at
    if at < count:
        _settle(at, count, heap, places, values, ages)


@compiled("void(int64, int64, int32[::1], int32[::1], int32[:,::1])")
def _append(half: int, region: int, following: Ints, previous: Ints, ends: Ints) -> None:
    """Put a half of a pair at the end of a region's list."""
    previous[half], following[half] = ends[region, 1], -1
    if ends[region, 1] < 0:
        ends[region, 0] = half
    else:
        following[ends[region, 1]] = half
    ends[region, 1] = half


@compiled("void(int64, int64, int32[::1], int32[::1], int32[:,::1])")
def _unlink(half: int, region: int, following: Ints, previous: Ints, ends: Ints) -> None:
    """Take a half of a pair out of a region's list."""
    if previous[half] < 0:
        ends[region, 0] = following[half]
    else:
        following[previous[half]] = following[half]
    if following[half] < 0:
        ends[region, 1] = previous[half]
    else:
        previous[following[half]] = previous[half]


@compiled("int32[:,::1](int32[:,::1], int32[:,::1], int64[::1], float64[:,::1], int64, float64, int64)")
def group(
    pairs: Ints, boxes: Ints, sizes: Longs, shares: Floats, colours: int, colour_base: float, image_size: int
) -> Ints:
    """Group regions; a group is a neighbour of every neighbour of its two parts.

    The new pairs of a group take the place of the old ones, so memory does not grow with the number of groups.

    Args:
        pairs: neighbours [P, 2], in the order of insertion.
        boxes: as for :func:`similarity`; overwritten, as are `sizes` and `shares`.
        sizes: as for :func:`similarity`.
        shares: as for :func:`similarity`.
        colours: as for :func:`similarity`.
        colour_base: as for :func:`similarity`.
        image_size: as for :func:`similarity`.

    Returns:
        The boxes of the regions and then of the groups, as they arise [N + groups, 4].
    """
    regions, count = len(boxes), len(pairs)
    found = np.empty((2 * regions, 4), np.int32)
    for region in range(regions):
        for k in range(4):
            found[region, k] = boxes[region, k]
    total = regions
    # The halves 2p and 2p + 1 of pair p are links of the lists of its two regions; each names the other region.
    # A list is in the order of insertion.
    others = np.empty(2 * count, np.int32)
    following, previous = np.empty(2 * count, np.int32), np.empty(2 * count, np.int32)
    ends = np.full((regions, 2), -1, np.int32)
    values, ages = np.empty(count), np.arange(count)
    heap, places = np.arange(count).astype(np.int32), np.arange(count).astype(np.int32)
    for p in range(count):
        a, b = pairs[p, 0], pairs[p, 1]
        others[2 * p], others[2 * p + 1] = b, a
        _append(2 * p, a, following, previous, ends)
        _append(2 * p + 1, b, following, previous, ends)
        values[p] = similarity(a, b, boxes, sizes, shares, colours, colour_base, image_size)
    for at in range(count):
        _settle(at, at + 1, heap, places, values, ages)
    age = count
    seen = np.full(regions, -1, np.int64)
    while count:
        best = heap[0]
        i, j = others[2 * best + 1], others[2 * best]
        _unlink(2 * best, i, following, previous, ends)
        _unlink(2 * best + 1, j, following, previous, ends)
        count -= 1
        _remove(best, count, heap, places, values, ages)
        _merge(i, j, boxes, sizes, shares)
        for k in range(4):
            found[total, k] = boxes[i, k]
        # Old pairs in the order of their insertion; of two with the same region, the first makes the new pair.
        first, second = ends[i, 0], ends[j, 0]
        ends[i, 0] = ends[i, 1] = -1
        while first >= 0 or second >= 0:
            if second < 0 or (first >= 0 and ages[first // 2] < ages[second // 2]):
                half, first = first, following[first]
            else:
                half, second = second, following[second]
            pair, region = half // 2, others[half]
            _unlink(half ^ 1, region, following, previous, ends)
            if seen[region] == total:
                count -= 1
                _remove(pair, count, heap, places, values, ages)
                continue
            seen[region] = total
            others[half ^ 1] = i
            _append(half ^ 1, region, following, previous, ends)
            _append(half, i, following, previous, ends)
            values[pair] = similarity(i, region, boxes, sizes, shares, colours, colour_base, image_size)
            ages[pair] = age
            age += 1
            _settle(places[pair], count, heap, places, values, ages)
        total += 1
    return found[:total]

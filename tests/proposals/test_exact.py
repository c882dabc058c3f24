from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import rgb2hsv
from skimage.feature import local_binary_pattern
from skimage.segmentation import felzenszwalb

from soco_core.engine.setup import usable_cores
from soco_core.images.decode import decode_image
from soco_core.proposals import exact_compiled, exact_segments
from soco_core.proposals.exact import bins_of_bytes, columns_of_bytes, exact_search
from soco_core.proposals.exact_grouping import group, similarity
from soco_core.proposals.exact_kernels import local_binary_patterns, measure_regions, overlapping_pairs
from soco_core.proposals.exact_segments import edge_costs, join, rising, segment

Scene = Callable[[int, int, int], npt.NDArray[np.uint8]]
Image = npt.NDArray[np.uint8]

PAPER = {"scale": 500, "sigma": 0.9, "min_size": 10, "texture_range": "unit"}
AUTHORS = {"scale": 300, "sigma": 0.9, "min_size": 100, "texture_range": "byte"}
FINE = {"scale": 20, "sigma": 0.5, "min_size": 1, "texture_range": "unit"}
FINE_BYTE = {"scale": 50, "sigma": 0.8, "min_size": 5, "texture_range": "byte"}
SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 90), (90, 1), (3, 200), (200, 3), (33, 71), (60, 40), (80, 100)]


def reference(image: Image, parameters: dict[str, object]) -> npt.NDArray[np.float32]:
    """The boxes of the package; its texture histogram is the only one with 10 bins."""
    from selectivesearch import selectivesearch as package

    arguments = {key: parameters[key] for key in ("scale", "sigma", "min_size")}
    histogram = np.histogram

    def over_bytes(values: npt.NDArray[np.float64], bins: int, limits: tuple[float, float]) -> object:
        return histogram(values, bins, (0.0, 255.0) if bins == 10 else limits)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if parameters["texture_range"] == "byte":
            patch.setattr(package.numpy, "histogram", over_bytes)
        _, regions = package.selective_search(image, **arguments)
    return np.array([(x, y, x + w, y + h) for x, y, w, h in (region["rect"] for region in regions)], np.float32)


def same_boxes(path: Path, parameters: dict[str, object]) -> tuple[bool, int]:
    """Whether both find the same boxes in one file, and how many; runs in a process of its own."""
    image = decode_image(path.read_bytes())
    boxes = exact_search(image, **parameters)  # type: ignore[arg-type]
    return np.array_equal(boxes, reference(image, parameters)), len(boxes)


def draw(kind: str, seed: int, height: int, width: int) -> Image:
    """Scenes with and without flat areas, gray ones, and patterns full of equal costs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    side = int(rng.integers(2, 9))
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == "squares":
        return ((y // side + x // side)[:, :, None] % 2 * rng.integers(0, 256, 3)).astype(np.uint8)
    if kind == "stripes":
        return ((y + x)[:, :, None] // side % 3 * rng.integers(0, 85, 3)).astype(np.uint8)
    if kind == "ramp":
        return np.stack([x % 256, y % 256, (x + y) % 256], 2).astype(np.uint8)
    image = np.full((height, width, 3), rng.integers(0, 256, 3))
    for _ in range(12):
        top, left = rng.integers(0, height), rng.integers(0, width)
        bottom, right = top + rng.integers(1, height // 2 + 2), left + rng.integers(1, width // 2 + 2)
        image[top:bottom, left:right] = rng.integers(0, 256, 3)
    if kind == "noisy":
        image = np.clip(image + rng.integers(-20, 21, image.shape), 0, 255)
    if kind == "gray":
        image = image[:, :, :1].repeat(3, 2)
    return image.astype(np.uint8)


KINDS = ["noise", "flat", "squares", "stripes", "ramp", "rectangles", "noisy", "gray"]


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_scenes_give_the_boxes_of_the_package(kind: str) -> None:
    for seed, (height, width) in enumerate(SHAPES):
        image = draw(kind, seed, height, width)
        parameters = (PAPER, AUTHORS, FINE, FINE_BYTE)[seed % 4 if seed < 8 else 2 + seed % 2]
        boxes = exact_search(image, **parameters)  # type: ignore[arg-type]
        assert boxes.dtype == np.float32
        np.testing.assert_array_equal(boxes, reference(image, parameters), f"{kind} {height}x{width}")


def test_a_hundred_photographs_give_the_boxes_of_the_package(shared_data: Path) -> None:
    paths = sorted((shared_data / "imagenet-sample").rglob("*.jp*g"))[::7]
    work = [(path, PAPER) for path in paths[:102]] + [(path, AUTHORS) for path in paths[102:110]]
    with ProcessPoolExecutor(usable_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(same_boxes, *zip(*work, strict=True)))
    assert len(results) > 100
    assert [path.name for (path, _), (same, _) in zip(work, results, strict=True) if not same] == []
    assert np.mean([found for _, found in results[:102]]) > 100


def test_a_pattern_that_the_texture_range_decides_on() -> None:
    image = draw("noisy", 3, 60, 80)
    byte = {**PAPER, "scale": 50, "texture_range": "byte"}
    boxes = exact_search(image, **{**byte, "texture_range": "unit"})  # type: ignore[arg-type]
    other = exact_search(image, **byte)  # type: ignore[arg-type]
    assert boxes.shape == other.shape
    assert (boxes != other).any()


@pytest.mark.parametrize(("height", "width"), [(10, 3000), (3000, 10)])
def test_long_images(height: int, width: int) -> None:
    boxes = exact_search(draw("noisy", 1, height, width), **PAPER)  # type: ignore[arg-type]
    assert len(boxes) > 2
    assert (boxes >= 0).all()
    assert (boxes <= [width - 1, height - 1] * 2).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_any_memory_layout() -> None:
    image = draw("noisy", 2, 40, 60)
    expected = exact_search(image, **PAPER)  # type: ignore[arg-type]
    mirrored = np.asfortranarray(image[:, ::-1])[:, ::-1]
    mirrored.flags.writeable = False
    assert exact_search(mirrored, **PAPER).tolist() == expected.tolist()  # type: ignore[arg-type]


def test_the_same_in_another_process(tmp_path: Path) -> None:
    image = draw("noisy", 4, 60, 80)
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys; import numpy as np; from soco_core.proposals.exact import exact_search;"
        f"print(exact_search(np.load(sys.argv[1]), **{PAPER!r}).tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "image.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(exact_search(image, **PAPER).tolist())  # type: ignore[arg-type]


def test_where_nothing_can_be_written_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(self: object, *args: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    from numba.core.dispatcher import Dispatcher

    monkeypatch.setattr(Dispatcher, "enable_caching", nowhere)
    twice = exact_compiled.compiled("int64(int64)")(lambda number: 2 * number)
    assert twice(21) == 42
    assert twice.signatures  # type: ignore[attr-defined]


# Texture


@pytest.mark.parametrize("kind", KINDS)
def test_texture_codes_are_those_of_skimage(kind: str) -> None:
    for seed, (height, width) in enumerate([*SHAPES, (2, 3000), (3000, 2)]):
        plane = np.ascontiguousarray(draw(kind, seed, height, width)[:, :, 0])
        np.testing.assert_array_equal(local_binary_patterns(plane), local_binary_pattern(plane, 8, 1.0))


def test_a_texture_code_by_hand() -> None:
    plane = np.array([[9, 9, 9], [1, 5, 9], [1, 1, 1]], np.uint8)
    # Right (bit 0) 9 and above (bit 2) 9 are brighter than 5, left and below are not. Up right and up left lie .70711
    # of the way to the corners: 9 on the upper row; .29289 * 5 + .70711 * 9 = 7.8 and .29289 * 5 + .70711 * 1 = 2.2 on
    # the middle one; so .70711 * 9 + .29289 * 7.8 = 8.7 and .70711 * 9 + .29289 * 2.2 = 7.0: bits 1 and 3.
    # Down right .70711 * 1 + .29289 * 7.8 = 3.0 and down left 1.4 are not.
    assert local_binary_patterns(plane)[1, 1] == 0b00001111
    # The corner pixel 9: right 9 (bit 0); all else is darker, or lies outside, where it is 0.
    assert local_binary_patterns(plane)[0, 0] == 0b00000001


# Histograms


@pytest.mark.parametrize(("count", "limits"), [(25, (0.0, 255.0)), (10, (0.0, 255.0)), (10, (0.0, 1.0))])
def test_bins_are_those_of_numpy(count: int, limits: tuple[float, float]) -> None:
    for value, column in enumerate(bins_of_bytes(count, limits)):
        expected = np.zeros(count)
        if column >= 0:
            expected[column] = 1
        np.testing.assert_array_equal(np.histogram([float(value)], count, limits)[0], expected)


def test_bins_by_hand() -> None:
    colours = bins_of_bytes(25, (0.0, 255.0))  # 10.2 wide
    assert [colours[value] for value in (0, 10, 11, 20, 21, 51, 244, 245, 255)] == [0, 0, 1, 1, 2, 5, 23, 24, 24]
    assert bins_of_bytes(10, (0.0, 1.0)).tolist() == [0, 9] + [-1] * 254


def test_hue_and_saturation_are_all_in_the_first_bin() -> None:
    levels = np.array([0, 1, 2, 3, 7, 50, 85, 127, 128, 170, 200, 253, 254, 255], np.float64)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    hsv = rgb2hsv(colours)
    assert hsv[..., :2].min() >= 0
    assert hsv[..., :2].max() < 10.2
    np.testing.assert_array_equal(hsv[..., 2], colours.max(-1))  # of float colours the value is not scaled


def test_regions_by_hand() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = (3, 200, 7)
    image[1, 2] = (20, 0, 4)
    labels = np.array([[0, 1, 1], [0, 0, 1]], np.int32)
    codes = np.array([[[1, 0, 0], [0, 2, 0]], [[2, 2, 2], [2, 2, 2]], [[0, 0, 0], [0, 0, 1]]], np.uint8)
    boxes, counts = np.empty((2, 4), np.int32), np.zeros((2, 55), np.int32)
    measure_regions(image, labels, codes, columns_of_bytes("unit"), boxes, counts)
    assert boxes.tolist() == [[0, 0, 1, 1], [1, 0, 2, 1]]
    expected = np.zeros((2, 55))
    expected[0, [0, 19]] = 2, 1  # values 0, 0 and 200
    expected[1, [0, 1]] = 2, 1  # values 0, 0 and 20
    expected[0, [25, 34]] = 1, 1  # red codes 1, 0; 2 is in no bin
    expected[1, 25] = 3
    expected[:, 45] = 3, 2  # blue codes
    expected[1, 54] = 1
    np.testing.assert_array_equal(counts, expected)


# Segmentation


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_those_of_skimage(kind: str) -> None:
    for seed, (height, width) in enumerate(SHAPES):
        image = draw(kind, seed, height, width)
        for parameters in (PAPER, AUTHORS, FINE):
            arguments = {key: parameters[key] for key in ("scale", "sigma", "min_size")}
            labels = segment(image, **arguments)  # type: ignore[arg-type]
            np.testing.assert_array_equal(labels, felzenszwalb(image, **arguments))


def test_costs_by_hand() -> None:
    smooth = np.zeros((2, 2, 3))
    smooth[0, 1] = (3, 4, 0)
    smooth[1, 0] = (0, 0, 1)
    smooth[1, 1] = (1, 2, 2)
    right, down, down_right, up_right = [5.0, 6.0**0.5], [1.0, 12.0**0.5], [3.0], [26.0**0.5]
    assert edge_costs(smooth).tolist() == [*right, *down, *down_right, *up_right]


def test_costs_are_sorted_and_equal_ones_stay_in_order() -> None:
    rng = np.random.default_rng(0)
    costs = np.concatenate([rng.random(5000), np.zeros(50), rng.random(5000) * 1e-300, rng.integers(0, 9, 500) / 3.0])
    rng.shuffle(costs)
    assert rising(costs).tolist() == np.argsort(costs, kind="stable").tolist()
    assert rising(np.empty(0)).tolist() == []


def test_inner_costs_are_rounded_to_single_precision_as_in_skimage() -> None:
    one_edge = np.zeros(1, np.uint32)
    assert float(np.float32(0.1)) > 0.1000000001
    assert join(np.array([0.1000000001]), one_edge.copy(), 1, 2, 0.1, 1)[0].tolist() == [[0, 0]]
    assert float(np.float32(0.7)) < 0.699999999
    assert join(np.array([0.699999999]), one_edge.copy(), 1, 2, 0.7, 1)[0].tolist() == [[0, 1]]
    # Two edges of cost 0. A pixel's inner cost, 1.2e-45, is rounded up to the least number above 0; that of two, half
    # of it, down to 0: so whichever edge comes first is the only one that joins.
    labels, certain = join(np.zeros(2), np.array([0, 1], np.uint32), 1, 3, 1.2e-45, 1)
    assert (labels.tolist(), certain) == ([[0, 0, 1]], False)
    labels, certain = join(np.zeros(2), np.array([1, 0], np.uint32), 1, 3, 1.2e-45, 1)
    assert (labels.tolist(), certain) == ([[0, 1, 1]], False)


def test_where_equal_costs_decide_the_order_is_skimages(monkeypatch: pytest.MonkeyPatch) -> None:
    # One row: two areas, and between them a pixel that is as far from either.
    costs = np.array([0.0, 0.5, 0.5, 0.0])
    one, certain = join(costs, np.array([0, 3, 1, 2], np.uint32), 1, 5, 1e-9, 2)
    assert (one.tolist(), certain) == ([[0, 0, 0, 1, 1]], False)
    other, certain = join(costs, np.array([0, 3, 2, 1], np.uint32), 1, 5, 1e-9, 2)
    assert (other.tolist(), certain) == ([[0, 0, 1, 1, 1]], False)
    # Without equal costs, or with equal ones that have nothing to do with each other, there is no doubt.
    assert join(np.array([0.0, 0.5, 0.4, 0.0]), np.array([0, 3, 2, 1], np.uint32), 1, 5, 1e-9, 2)[1]
    assert join(np.array([0.0, 0.5, 0.9, 0.5, 0.0]), np.array([0, 4, 1, 3, 2], np.uint32), 1, 6, 1e-9, 2)[1]

    orders = []
    whole = exact_segments.join

    def watched(costs: object, order: npt.NDArray[np.uint32], *rest: object) -> object:
        orders.append(order.tolist())
        return whole(costs, order, *rest)  # type: ignore[arg-type, call-arg]

    monkeypatch.setattr(exact_segments, "join", watched)
    image = draw("squares", 0, 40, 60)
    labels = segment(image, scale=50, sigma=0.8, min_size=50)
    np.testing.assert_array_equal(labels, felzenszwalb(image, scale=50, sigma=0.8, min_size=50))
    assert len(orders) == 2
    assert sorted(orders[0]) == sorted(orders[1])


# Neighbours and grouping


def test_neighbours_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [10, 0, 20, 5], [9, 1, 15, 3], [2, 2, 4, 4], [0, 5, 5, 30], [9, 9, 30, 12], [3, 10, 4, 11]]
    found = overlapping_pairs(np.array(boxes, np.int32)).tolist()
    # (0, 1) only touch, as do (0, 6); 2 has its left corners in 0, its right ones in 1; 3 lies in 0; 4 begins at 0's
    # left edge but has its right corner inside, and lies at 3's side; 5 has its first corner in 0; 6 lies in 4.
    assert found == [[0, 2], [0, 3], [0, 4], [0, 5], [1, 2], [4, 6]]
    # Equal boxes have no corner strictly inside each other; a smaller one that comes first counts for nothing.
    assert overlapping_pairs(np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.int32)).tolist() == []
    assert overlapping_pairs(np.array([[4, 0, 5, 1], [0, 0, 9, 9]], np.int32)).tolist() == []


def grouping(
    pairs: list[list[int]], boxes: list[list[int]], sizes: list[int], shares: list[list[float]]
) -> list[list[int]]:
    """Group regions of an image of 100 pixels; of the bins the first is of colour, the others are of texture."""
    arrays = np.array(pairs, np.int32).reshape(-1, 2), np.array(boxes, np.int32), np.array(sizes), np.array(shares)
    return group(*arrays, 1, 2.0, 100).tolist()


def test_similarity_by_hand() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 1, 9, 3]], np.int32)
    shares = np.array([[0.5, 0.5, 0.2, 0.8], [0.25, 0.75, 0.6, 0.4]])
    # Colour 2 + .25 + .5, texture .2 + .4, size 1 - (10 + 12) / 100, fill 1 - (9 * 4 - 10 - 12) / 100.
    found = similarity(0, 1, boxes, np.array([10, 12]), shares, 2, 2.0, 100)
    assert found == pytest.approx(2.75 + 0.6 + 0.78 + 0.86, abs=1e-12)


def test_of_equal_similarities_the_latest_wins() -> None:
    boxes = [[x, 0, x + 1, 1] for x in (0, 1, 2, 3)]
    everywhere = [[0.5, 0.5]] * 4
    first = grouping([[0, 1], [2, 3]], boxes, [1] * 4, everywhere)
    assert first[4:] == [[2, 0, 4, 1], [0, 0, 2, 1]]
    assert grouping([[2, 3], [0, 1]], boxes, [1] * 4, everywhere)[4:] == [[0, 0, 2, 1], [2, 0, 4, 1]]


def test_a_group_inherits_neighbours_in_the_order_of_the_old_pairs() -> None:
    # (0, 1) are the most alike. With 2, 3 and 4 their group has the same in common, and boxes of the same area, 6.
    # 3 comes first, as (1, 3) is the oldest pair, then 2, whose second pair (0, 2) changes nothing, then 4: the latest.
    boxes = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 6, 1], [0, 0, 3, 2], [0, 0, 2, 3]]
    shares = [[1.0, 0.0]] * 2 + [[0.0, 0.0]] * 3
    found = grouping([[0, 1], [1, 3], [1, 2], [0, 4], [0, 2]], boxes, [1] * 5, shares)
    assert found[5:] == [[0, 0, 1, 1], [0, 0, 2, 3], [0, 0, 3, 3], [0, 0, 6, 3]]


def test_regions_without_neighbours_stay_alone() -> None:
    assert grouping([], [[0, 0, 3, 3]], [16], [[1.0, 1.0]]) == [[0, 0, 3, 3]]


def test_the_shares_of_a_group_are_weighted_by_size() -> None:
    # The last texture bin makes (0, 1) the most alike. Of colour and of the first texture bin their group has 3/4 and
    # 1/4: 2 has .75 in common with it and 3 .25 + .25. Were each a half, it would be .5 and .25 + .4.
    shares = [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.25, 0.4, 0.0]]
    boxes = [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 9, 3], [0, 0, 3, 9]]
    found = grouping([[0, 1], [0, 2], [0, 3]], boxes, [30, 10, 5, 5], shares)
    assert found[4:] == [[0, 0, 2, 2], [0, 0, 9, 3], [0, 0, 9, 9]]

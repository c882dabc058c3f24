"""What views look like on average, against the numbers that the paper states (3.2, 4.1), at a fixed seed.

The numbers are written out here, not taken from the recipe; each is met to 4 standard errors.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from soco_core.config import ViewsConfig
from soco_core.views import construct
from soco_core.views.construct import View, construct_views
from soco_core.views.random_parameters import image_generator
from soco_core.views.selection import view_frames

Values = npt.NDArray[Any]

IMAGES = 4000
SIDES = (224, 224, 112, 192)
PIXELS = np.zeros((32, 32, 3), np.uint8)
CENTRE = np.array([[13, 13, 19, 19]], np.float32)
"""A proposal in the middle, which no crop of half an image cuts."""
BINS = 8


def build(count: int, **fields: Any) -> list[list[View]]:
    """The views of `count` images, without their pixels, which would take most of the time; [view][image]."""
    config = ViewsConfig(fourth_view=True, **fields)
    blank = [
        torch.zeros(1, 1).expand(3, size, size)
        for size in (config.size, *(frame.size for frame in view_frames(config)))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(construct, "_images", lambda *_: blank)
        found = (construct_views(PIXELS, CENTRE, config, image_generator(11, 0, number)) for number in range(count))
        return [list(same) for same in zip(*found, strict=True)]


@pytest.fixture(scope="module")
def views() -> list[list[View]]:
    """All as the paper has it, but for the jitter, which would hide the crops."""
    return build(IMAGES, jitter_probability=0.0)


@pytest.fixture(scope="module")
def offsets() -> list[Values]:
    """The jitter of all boxes in each view, (r_x, r_y, r_w, r_h) as the paper defines them, [images, K, 4]."""
    plain = {"crop_min_scale": 1.0, "crop_max_aspect_ratio": 1.0, "flip_probability": 0.0}
    found = []
    for same in build(1500, size=32, small_size=32, fourth_size=32, **plain):
        boxes = np.stack([view.boxes.numpy() for view in same]).astype(np.float64)
        size = boxes[..., 2:] - boxes[..., :2]
        centre = (boxes[..., 2:] + boxes[..., :2]) / 2
        found.append(np.concatenate([(centre - 16) / 6, size / 6 - 1], axis=-1))
    return found


def drawn(views: list[View], name: str) -> Values:
    return np.array([getattr(view.augmentation, name).item() for view in views], np.float64)


def assert_rate(hits: Values, rate: float) -> None:
    error = np.sqrt(rate * (1 - rate) / hits.size)
    assert abs(hits.mean() - rate) <= 4 * error, f"{hits.mean():.4f}, not {rate}"


def assert_uniform(values: Values, low: float, high: float) -> None:
    """Each of some bins has its share, nothing is outside, and the ends are reached."""
    margin = 1e-4 * (high - low)
    assert values.min() >= low - margin
    assert values.max() <= high + margin
    for edge in np.linspace(low, high, BINS + 1)[:-1]:
        assert_rate((values >= edge) & (values < edge + (high - low) / BINS), 1 / BINS)
    assert values.min() < low + 20 / values.size * (high - low)
    assert values.max() > high - 20 / values.size * (high - low)


def assert_uncorrelated(a: Values, b: Values) -> None:
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) <= 4 / np.sqrt(a.size)


def crops(views: list[View]) -> Values:
    """left, top, width, height in V1's pixels of the crop that each view (V2 or V4) shows, told from its box."""
    side = views[0].image.shape[-1]
    boxes = np.stack([view.boxes[0].numpy() for view in views]).astype(np.float64)
    flip = drawn(views, "flip") > 0
    boxes[flip, 0], boxes[flip, 2] = side - boxes[flip, 2], side - boxes[flip, 0]
    before = CENTRE[0].astype(np.float64) * 7
    sizes = side * (before[2:] - before[:2]) / (boxes[:, 2:] - boxes[:, :2])
    return np.rint(np.concatenate([before[:2] - boxes[:, :2] * sizes / side, sizes], axis=1))


def share_below(area: Values, least: float) -> Values:
    """How likely a crop's area, as a share, is less than this.

    Uniform from `least` to 1, and the logarithm of the aspect ratio from -ln(4/3) to ln(4/3); but a crop that does not
    fit is drawn again, and one of area a fits if the ratio is at most 1/a.
    """
    bound = np.log(4 / 3)

    def mass(a: Values) -> Values:
        upper = np.maximum(a, 3 / 4)
        rare = (upper - upper * np.log(upper)) - (3 / 4 - 3 / 4 * np.log(3 / 4))
        return np.minimum(a, 3 / 4) - least + rare / bound

    result: Values = mass(area) / mass(np.array(1.0))
    return result


@pytest.mark.parametrize("number", [1, 3])
def test_crop_scale_and_shape(views: list[list[View]], number: int) -> None:
    _, _, width, height = crops(views[number]).T
    area = width * height / 224**2
    assert 0.495 < area.min() < 0.505
    assert area.max() > 0.97
    assert_uniform(share_below(area, 0.5).clip(0, 1), 0, 1)
    aspect = np.log(width / height)[area < 0.72]
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.01
    assert_uniform(aspect.clip(-np.log(4 / 3), np.log(4 / 3)), -np.log(4 / 3), np.log(4 / 3))
    assert_uncorrelated(area, width / height)


@pytest.mark.parametrize("number", [1, 3])
def test_crop_position(views: list[list[View]], number: int) -> None:
    left, top, width, height = crops(views[number]).T
    spread = np.random.default_rng(5).random((2, IMAGES))
    # Of n + 1 places one; spread over the place, that is uniform.
    across, down = (left + spread[0]) / (225 - width), (top + spread[1]) / (225 - height)
    assert_uniform(across, 0, 1)
    assert_uniform(down, 0, 1)
    assert_uncorrelated(across, down)


def test_v2_and_v4_are_cropped_independently(views: list[list[View]]) -> None:
    for a, b in zip(crops(views[1]).T, crops(views[3]).T, strict=True):
        assert_uncorrelated(a, b)


def test_the_authors_crop_of_c4_begins_at_point_six() -> None:
    [_, second, *_] = build(1000, jitter_probability=0.0, crop_min_scale=0.6)
    _, _, width, height = crops(second).T
    area = width * height / 224**2
    assert 0.595 < area.min() < 0.61
    assert_uniform(share_below(area, 0.6).clip(0, 1), 0, 1)


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("flip", 0.5, 0.5),
        ("colour", 0.8, 0.8),
        ("grayscale", 0.2, 0.2),
        ("blur", 1.0, 0.1),
        ("solarise", 0.0, 0.2),
    ],
)
def test_rates_of_each_view(views: list[list[View]], name: str, first: float, others: float) -> None:
    for number, same in enumerate(views):
        assert_rate(drawn(same, name), others if number else first)
    for a, b in itertools.combinations(views[1:], 2):
        assert_uncorrelated(drawn(a, name), drawn(b, name))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
        ("sigma", 0.1, 2.0),
    ],
)
def test_factors_of_each_view(views: list[list[View]], name: str, low: float, high: float) -> None:
    for same in views:
        assert_uniform(drawn(same, name), low, high)
    for a, b in itertools.combinations(views, 2):
        assert_uncorrelated(drawn(a, name), drawn(b, name))


def test_colour_is_distorted_in_every_order(views: list[list[View]]) -> None:
    for same in views:
        orders = [tuple(view.augmentation.order.tolist()) for view in same]
        for order in itertools.permutations(range(4)):
            assert_rate(np.array([other == order for other in orders]), 1 / 24)


def test_augmentations_are_drawn_independently(views: list[list[View]]) -> None:
    names = ("flip", "colour", "grayscale", "solarise", "brightness", "contrast", "saturation", "hue", "sigma")
    for a, b in itertools.combinations(names, 2):
        assert_uncorrelated(drawn(views[1], a), drawn(views[1], b))


def test_half_of_the_boxes_are_jittered(offsets: list[Values]) -> None:
    hits = [np.abs(of_view).max(-1) > 1e-5 for of_view in offsets]
    for hit in hits:
        assert_rate(hit, 0.5)
        for a, b in itertools.combinations(hit.T, 2):  # boxes of an image
            assert_uncorrelated(a, b)
    for a, b in itertools.combinations(hits, 2):  # views of a box
        assert_uncorrelated(a, b)


def test_the_four_offsets_are_uniform_and_independent(offsets: list[Values]) -> None:
    for of_view in offsets:
        jittered = of_view[np.abs(of_view).max(-1) > 1e-5]
        for values in jittered.T:
            assert_uniform(values, -0.1, 0.1)
        for a, b in itertools.combinations(jittered.T, 2):
            assert_uncorrelated(a, b)
            assert_uncorrelated(np.abs(a), np.abs(b))
    for a, b in itertools.combinations(offsets, 2):
        assert_uncorrelated(a, b)


def test_cutouts() -> None:
    count = 1000
    whole = {"crop_min_scale": 1.0, "crop_max_aspect_ratio": 1.0, "jitter_probability": 0.0}
    first, *others = build(count, cutout_probability=0.5, **whole)
    assert not any(view.cutouts.any() for view in first)
    for same, side in zip(others, SIDES[1:], strict=True):
        boxes = np.stack([view.boxes.numpy() for view in same]).reshape(-1, 4).astype(np.float64)
        squares = np.stack([view.cutouts.numpy() for view in same]).reshape(-1, 4).astype(np.float64)
        cut = squares[:, 2] > squares[:, 0]
        assert_rate(cut, 0.5)
        box, square = boxes[cut], squares[cut]
        size = box[:, 2:] - box[:, :2]
        assert size.min() == pytest.approx(6 / 32 * side, abs=1e-3)
        sides = square[:, 2:] - square[:, :2]
        np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=1e-3)
        assert_uniform(sides.prod(1) / size.prod(1), 0.1, 0.3)
        centre = ((square[:, :2] + square[:, 2:]) / 2 - box[:, :2]) / size
        for values in centre.T:
            assert_uniform(values, 0, 1)
        assert_uncorrelated(centre[:, 0], centre[:, 1])
        assert_uncorrelated(sides[:, 0], centre[:, 0])

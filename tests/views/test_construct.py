"""Views: sizes, matched boxes, repetition, fallback, and randomness that depends on the image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tvf

from soco_core.config import ViewsConfig
from soco_core.views.construct import View, construct_views
from soco_core.views.random_parameters import draw_augmentation, draw_crop, draw_jitter, image_generator

PAPER = ViewsConfig()
PLAIN = ViewsConfig(jitter_probability=0.0, flip_probability=0.0)


def scene(width: int = 320, height: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A gray image with a red rectangle, and that rectangle's box."""
    image = np.full((height, width, 3), 90, np.uint8)
    box = np.array([[100, 60, 220, 150]], np.float32)
    image[60:150, 100:220] = (250, 10, 10)
    return image, box


def build(config: ViewsConfig, boxes: np.ndarray | None = None, number: int = 0) -> list[View]:
    image, box = scene()
    return construct_views(image, box if boxes is None else boxes, config, image_generator(0, 0, number))


def test_sizes_and_dtypes() -> None:
    views = build(PAPER)
    assert [tuple(view.image.shape) for view in views] == [(3, 224, 224), (3, 224, 224), (3, 112, 112)]
    assert all(view.image.dtype == torch.uint8 for view in views)
    assert all(view.boxes.shape == (4, 4) and view.boxes.dtype == torch.float32 for view in views)


@pytest.mark.parametrize("number", range(8))
def test_boxes_follow_the_pixels(number: int) -> None:
    """The red pixels of each view, flipped if so drawn, span the box."""
    config = ViewsConfig(jitter_probability=0.0)
    for view in build(config, number=number):
        image = view.image.flip(-1) if view.augmentation.flip else view.image
        red = (image[0] > 170) & (image[1] < 50)
        rows, columns = torch.nonzero(red.any(1)), torch.nonzero(red.any(0))
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(view.boxes[0].numpy(), np.array(found, np.float32), atol=1.6)


def test_first_view_is_the_whole_image_squashed() -> None:
    image, _ = scene()
    expected = tvf.resize(torch.from_numpy(image).permute(2, 0, 1), [224, 224], antialias=True)
    assert torch.equal(build(PLAIN)[0].image, expected)


def test_third_view_is_the_second_downsampled() -> None:
    _, second, third = build(PLAIN)
    assert torch.equal(third.image, tvf.resize(second.image, [112, 112], antialias=True))
    torch.testing.assert_close(third.boxes, second.boxes / 2)


def test_short_lists_are_repeated_and_long_ones_drawn_without_repetition() -> None:
    few = build(PLAIN)[0].boxes
    assert len(torch.unique(few, dim=0)) == 1
    many = np.array([[x, 40, x + 90, 160] for x in range(60, 180, 10)], np.float32)
    drawn = build(PLAIN, many)[0].boxes
    assert len(torch.unique(drawn, dim=0)) == 4


def test_box_i_is_the_same_proposal_in_each_view() -> None:
    whole = ViewsConfig(crop_min_scale=1.0, crop_max_aspect_ratio=1.0, jitter_probability=0.0, flip_probability=0.0)
    many = np.array([[x, 40, x + 90, 160] for x in range(60, 180, 10)], np.float32)
    first, second, third = build(whole, many)
    assert len(torch.unique(first.boxes, dim=0)) == 4
    torch.testing.assert_close(second.boxes, first.boxes)
    torch.testing.assert_close(third.boxes, first.boxes / 2)


@pytest.mark.parametrize("number", range(40))
def test_proposals_outside_the_crop_are_dropped(number: int) -> None:
    corners = np.array([[0, 0, 30, 20], [290, 0, 320, 20], [0, 180, 30, 200], [290, 180, 320, 200]], np.float32)
    config = ViewsConfig(crop_max_scale=0.6, jitter_probability=0.0)
    for view in build(config, corners, number):
        assert bool((view.boxes[:, 2:] > view.boxes[:, :2]).all())


def test_an_image_without_a_usable_proposal_gives_the_whole_view() -> None:
    nothing = np.zeros((0, 4), np.float32)
    views = build(PLAIN, nothing)
    assert views[0].boxes.tolist() == [[0, 0, 224, 224]] * 4
    assert views[2].boxes.tolist() == [[0, 0, 112, 112]] * 4


def test_jitter_differs_between_views_of_a_proposal() -> None:
    config = ViewsConfig(jitter_probability=1.0, flip_probability=0.0)
    first, second, third = build(config)
    assert not torch.allclose(third.boxes, second.boxes / 2, atol=0.1)
    plain = build(PLAIN)[0].boxes
    size = (plain[:, 2:] - plain[:, :2]).numpy()
    offset = np.abs(first.boxes.numpy() - plain.numpy())
    # A corner moves by at most r * size for the centre and r * size / 2 for the half side.
    assert (offset <= 0.15 * np.concatenate([size, size], 1) + 1e-3).all()
    assert offset.max() > 0


def test_views_depend_on_seed_epoch_and_image_alone() -> None:
    image, box = scene()

    def views(*key: int) -> list[View]:
        return construct_views(image, box, PAPER, image_generator(*key))

    one, same = views(1, 2, 3), views(1, 2, 3)
    for left, right in zip(one, same, strict=True):
        assert torch.equal(left.image, right.image)
        assert torch.equal(left.boxes, right.boxes)
        assert all(torch.equal(a, b) for a, b in zip(left.augmentation, right.augmentation, strict=True))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(one[1].image, views(*other)[1].image)


def test_crops_cover_the_stated_range() -> None:
    generator = np.random.default_rng(0)
    crops = np.array([draw_crop(PAPER, generator) for _ in range(2000)])
    areas = crops[:, 2] * crops[:, 3] / 224**2
    aspects = crops[:, 2] / crops[:, 3]
    assert 0.49 <= areas.min() < 0.53
    assert 0.94 < areas.max() <= 1.0
    assert 0.73 <= aspects.min() < 0.8
    assert 1.25 < aspects.max() <= 1.36
    assert (crops[:, 0] + crops[:, 2] <= 224).all()
    assert (crops[:, 1] + crops[:, 3] <= 224).all()


def test_factors_cover_the_stated_ranges() -> None:
    generator = np.random.default_rng(0)
    drawn = [draw_augmentation(PAPER, True, generator) for _ in range(2000)]
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
        "sigma": (0.1, 2.0),
    }
    for name, (low, high) in ranges.items():
        values = np.array([float(getattr(a, name)) for a in drawn])
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_rates_are_the_papers() -> None:
    generator = np.random.default_rng(0)
    count = 4000
    first = [draw_augmentation(PAPER, True, generator) for _ in range(count)]
    others = [draw_augmentation(PAPER, False, generator) for _ in range(count)]
    offsets = draw_jitter(PAPER, count, generator)

    def rate(drawn: list, name: str) -> float:
        return float(np.mean([float(getattr(a, name)) for a in drawn]))

    # Three standard deviations of a rate over 4000 draws are at most 0.024.
    expected = [("flip", 0.5, 0.5), ("colour", 0.8, 0.8), ("grayscale", 0.2, 0.2), ("blur", 1, 0.1)]
    for name, in_first, in_others in [*expected, ("solarise", 0, 0.2)]:
        assert rate(first, name) == pytest.approx(in_first, abs=0.024)
        assert rate(others, name) == pytest.approx(in_others, abs=0.024)
    assert np.any(offsets != 0, axis=1).mean() == pytest.approx(0.5, abs=0.024)
    assert 0.099 < np.abs(offsets).max() <= 0.1

"""Views: sizes, matched boxes, repetition, fallback, and randomness that depends on the image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tvf

from soco_core.config import ViewsConfig
from soco_core.views.construct import View, construct_views
from soco_core.views.placement import WHOLE_VIEW
from soco_core.views.random_parameters import image_generator

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
    for view in views:
        assert view.ids.tolist() == [WHOLE_VIEW] * 4
        assert not bool(view.usable)


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


def test_the_default_views_stay_what_they_are() -> None:
    """The views of recipes that are already trained with: no new variant may change an older draw."""
    image, _ = scene()
    many = np.array([[x, 40, x + 90, 160] for x in range(60, 180, 10)], np.float32)
    views = construct_views(image, many, PAPER, image_generator(7, 2, 5))
    expected = [
        ([78.17, 39.95, 141.23, 182.54], [42.0, 44.8, 105.0, 179.2], True, 0.0487, [0, 2, 3, 1]),
        ([76.05, 46.02, 163.16, 209.63], [134.12, 46.02, 221.23, 209.63], False, -0.0099, [0, 3, 1, 2]),
        ([40.05, 17.56, 80.51, 93.93], [67.06, 23.01, 110.62, 104.82], False, -0.0043, [0, 1, 2, 3]),
    ]
    for view, (first, last, flip, hue, order) in zip(views, expected, strict=True):
        np.testing.assert_allclose(view.boxes[[0, 3]].numpy(), [first, last], atol=0.006)
        assert view.ids.tolist() == [5, 2, 1, 11]
        assert bool(view.augmentation.flip) is flip
        assert view.augmentation.order.tolist() == order
        assert float(view.augmentation.hue) == pytest.approx(hue, abs=1e-4)
        assert bool(view.usable)
        assert not view.cutouts.any()


def test_ids_name_the_proposals() -> None:
    many = np.array([[x, 40, x + 90, 160] for x in range(60, 180, 10)], np.float32)
    for view in build(PLAIN, many):
        assert len(set(view.ids.tolist())) == 4
    first = build(PLAIN, many)[0]
    expected = many[first.ids.numpy()] * np.array([224 / 320, 224 / 200] * 2, np.float32)
    np.testing.assert_allclose(first.boxes.numpy(), expected, atol=1e-4)


def test_repeated_boxes_have_equal_ids() -> None:
    two = np.array([[60, 40, 150, 160], [120, 40, 210, 160]], np.float32)
    for view in build(PLAIN, two):
        ids = view.ids.tolist()
        assert sorted(ids) == [0, 0, 1, 1]
        assert torch.equal(view.boxes[ids.index(0)], view.boxes[3 - ids[::-1].index(0)])

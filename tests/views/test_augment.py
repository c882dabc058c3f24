"""Batched augmentation against torchvision's functions, image by image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tvf

from soco_core.views import augment as ours
from soco_core.views.batch import prepare_views
from soco_core.views.construct import View
from soco_core.views.random_parameters import Augmentation

N = 6


@pytest.fixture
def images() -> torch.Tensor:
    noise = torch.rand(N, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    # A flat, a gray and a black image: hue and saturation have their special cases there.
    noise[3] = 0.5
    noise[4] = noise[4, :1]
    noise[5] = 0.0
    return noise


def parameters(**changes: torch.Tensor) -> Augmentation:
    values: dict[str, torch.Tensor] = {
        "flip": torch.zeros(N, dtype=torch.bool),
        "colour": torch.zeros(N, dtype=torch.bool),
        "order": torch.arange(4).expand(N, 4),
        "brightness": torch.ones(N),
        "contrast": torch.ones(N),
        "saturation": torch.ones(N),
        "hue": torch.zeros(N),
        "grayscale": torch.zeros(N, dtype=torch.bool),
        "blur": torch.zeros(N, dtype=torch.bool),
        "sigma": torch.ones(N),
        "solarise": torch.zeros(N, dtype=torch.bool),
    }
    return Augmentation(**(values | changes))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_colour_distortion_equals_torchvision_in_each_order(
    images: torch.Tensor, order: tuple[int, int, int, int]
) -> None:
    b, c, s = torch.linspace(0.6, 1.4, N), torch.linspace(1.4, 0.6, N), torch.linspace(0.8, 1.2, N)
    h = torch.linspace(-0.1, 0.1, N)
    drawn = torch.tensor([True, True, False, True, True, True])
    a = parameters(colour=drawn, order=torch.tensor(order).expand(N, 4), brightness=b, contrast=c, saturation=s, hue=h)
    functions = (
        lambda x, i: tvf.adjust_brightness(x, b[i].item()),
        lambda x, i: tvf.adjust_contrast(x, c[i].item()),
        lambda x, i: tvf.adjust_saturation(x, s[i].item()),
        lambda x, i: tvf.adjust_hue(x, h[i].item()),
    )
    result = ours.distort_colour(images, a)
    for i in range(N):
        expected = images[i]
        for number in order if drawn[i] else ():
            expected = functions[number](expected, i)
        torch.testing.assert_close(result[i], expected, atol=2e-5, rtol=0)


def test_grayscale_equals_torchvision(images: torch.Tensor) -> None:
    torch.testing.assert_close(ours.to_gray(images), tvf.rgb_to_grayscale(images, 1), atol=1e-6, rtol=0)


def blurred_alone(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """torchvision's blur, by a kernel that reaches three of this image's sigmas."""
    return tvf.gaussian_blur(image, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)


def test_blur_equals_torchvision(images: torch.Tensor) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.5, 1.9, 2.0])
    blurred = ours.blur(images, sigma)
    for i in range(N):
        torch.testing.assert_close(blurred[i], blurred_alone(images[i], sigma[i].item()), atol=1e-5, rtol=0)


def test_a_blurred_image_is_the_same_whichever_share_its_batch(images: torch.Tensor) -> None:
    for small, large in ((0.35, 2.0), (0.5, 1.7), (1.2, 1.9)):
        alone = ours.blur(images[:1], torch.tensor([small]))
        together = ours.blur(images[:2], torch.tensor([small, large]))
        torch.testing.assert_close(alone[0], together[0], atol=1e-6, rtol=0)


def test_whole_pipeline_equals_torchvision_on_uint8(images: torch.Tensor) -> None:
    pixels = (images * 255).byte()
    flip = torch.tensor([True, False] * 3)
    solarise = torch.tensor([True, True, False] * 2)
    gray = torch.tensor([False, True, False] * 2)
    a = parameters(flip=flip, solarise=solarise, grayscale=gray)
    result = ours.denormalise(ours.augment(pixels, a))
    for i in range(N):
        expected = tvf.horizontal_flip(pixels[i]) if flip[i] else pixels[i]
        expected = tvf.rgb_to_grayscale(expected, 3) if gray[i] else expected
        expected = tvf.solarize(expected, 128) if solarise[i] else expected
        # torchvision rounds its gray levels to integers before it solarises.
        close = (result[i] * 255 - expected.float()).abs() <= 1.0
        assert close.float().mean() > 0.99


def test_operations_come_in_byols_order(images: torch.Tensor) -> None:
    """Flip, colour, grayscale, blur, solarise: each image with its own draw."""
    pixels = (images * 255).byte()
    drawn = torch.tensor([True, False, True, True, True, True])
    blurred = torch.tensor([True, False, True, False, True, True])
    sigma = torch.tensor([0.4, 0.7, 1.0, 1.3, 1.6, 2.0])
    gray = torch.tensor([False, True, True, False, False, True])
    bright = torch.linspace(0.7, 1.3, N)
    every = torch.ones(N, dtype=torch.bool)
    a = parameters(colour=drawn, brightness=bright, grayscale=gray, blur=blurred, sigma=sigma, solarise=every)
    result = ours.augment(pixels, a)
    for i in range(N):
        x = pixels[i].float() / 255
        x = tvf.adjust_brightness(x, bright[i].item()) if drawn[i] else x
        x = tvf.rgb_to_grayscale(x, 3) if gray[i] else x
        x = blurred_alone(x, sigma[i].item()) if blurred[i] else x
        away = (x - ours.SOLARISE_THRESHOLD).abs() > 1e-4
        x = ours.normalise(tvf.solarize(x, ours.SOLARISE_THRESHOLD)[None])[0]
        assert away.float().mean() > 0.9
        torch.testing.assert_close(result[i][away], x[away], atol=2e-4, rtol=0)


def test_normalisation_uses_detectron2s_constants() -> None:
    pixels = torch.full((1, 3, 40, 40), 255, dtype=torch.uint8)
    one = Augmentation(*(field[:1] for field in parameters()))
    expected = (255 - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(ours.augment(pixels, one)[0, :, 0, 0].numpy(), expected, atol=1e-5)


def test_cutout_by_hand() -> None:
    """A pixel is cut if its centre is in a square: columns 2 and 3, rows 1 to 4; and nothing of the empty square."""
    squares = torch.tensor([[[1.6, 0.5, 4.4, 5.0], [7.0, 7.0, 7.0, 9.0]], [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    cut = ours.cut_out(torch.ones(2, 3, 8, 9), squares)
    expected = torch.ones(2, 3, 8, 9)
    expected[0, :, 0:5, 2:4] = 0
    assert torch.equal(cut, expected)


def test_prepared_views_are_augmented_then_cut(images: torch.Tensor) -> None:
    """Zeros after normalisation, at the place in the flipped view; boxes and ids pass as they are."""
    squares = torch.zeros(N, 2, 4)
    squares[0, 1] = torch.tensor([3.0, 4.0, 10.0, 11.0])
    flipped = parameters(flip=torch.ones(N, dtype=torch.bool))
    boxes, ids = torch.rand(N, 2, 4), torch.arange(2 * N).reshape(N, 2)
    pixels = (images * 255).byte()
    view = View(pixels, boxes, ids, squares, torch.ones(N, dtype=torch.bool), flipped)
    whole = view._replace(cutouts=torch.zeros(N, 2, 4))
    cut, plain = prepare_views([view, whole], torch.device("cpu"))
    assert torch.equal(plain.images, ours.augment(pixels, flipped))
    expected = plain.images.clone()
    expected[0, :, 4:11, 3:10] = 0
    assert torch.equal(cut.images, expected)
    assert torch.equal(cut.boxes, boxes)
    assert torch.equal(cut.ids, ids)
    assert cut.images.is_contiguous(memory_format=torch.channels_last)

"""Every random choice about an image's views, drawn from (seed, epoch, image) alone (paper 3.2, 4.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from soco_core.config import ViewsConfig

CROP_ATTEMPTS = 10
"""Attempts to fit a crop of the drawn area and shape, as in torchvision's RandomResizedCrop."""

Crop = tuple[int, int, int, int]
"""left, top, width, height in pixels of what is cropped: V1, or the original image."""


class Augmentation(NamedTuple):
    """What happens to the pixels of one view (BYOL's pipeline without its crop, 4.1).

    Tensors without dimensions for one image; a data loader's collation puts a batch dimension in front.
    """

    flip: Tensor
    """bool."""
    colour: Tensor
    """bool: whether the four colour factors apply at all."""
    order: Tensor
    """int64 [4]: order of brightness (0), contrast (1), saturation (2) and hue (3)."""
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    """Shift in turns."""
    grayscale: Tensor
    """bool."""
    blur: Tensor
    """bool."""
    sigma: Tensor
    """Standard deviation of the blur in pixels."""
    solarise: Tensor
    """bool."""


def image_generator(seed: int, epoch: int, image: int) -> np.random.Generator:
    """Return the generator of an image's views: no worker and no position in a batch has a say."""
    # NumPy takes [seed, epoch] and [seed, epoch, 0] for the same seed; the former draws the epoch's order.
    return np.random.default_rng([seed, epoch, image + 1])


def draw_crop(config: ViewsConfig, size: tuple[int, int], generator: np.random.Generator) -> Crop:
    """Draw a crop of an image or view of `size` (width, height): the area in [crop_min_scale, crop_max_scale] of its
    area, the aspect ratio in [1/r, r].

    A crop that does not fit is drawn again, so that those near the full area are square; where none fits (a panorama),
    it is the largest one in the middle that has an aspect ratio in the range, as in torchvision's RandomResizedCrop.
    """
    full_width, full_height = size
    ratio = config.crop_max_aspect_ratio
    bound = np.log(ratio)
    for _ in range(CROP_ATTEMPTS):
        area = full_width * full_height * generator.uniform(config.crop_min_scale, config.crop_max_scale)
        aspect = np.exp(generator.uniform(-bound, bound))
        width, height = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = int(generator.integers(0, full_width - width + 1))
            top = int(generator.integers(0, full_height - height + 1))
            return left, top, width, height
    width, height = min(full_width, round(full_height * ratio)), min(full_height, round(full_width * ratio))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


def draw_jitter(config: ViewsConfig, count: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw the jitter offsets of `count` boxes, float64 [count, 4]; zeros for boxes that are spared."""
    jittered = generator.random(count) < config.jitter_probability
    offsets = generator.uniform(-config.jitter_range, config.jitter_range, (count, 4))
    return offsets * jittered[:, None]


def draw_cutouts(
    config: ViewsConfig, boxes: npt.NDArray[np.float32], side: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw what is cut out of the boxes of one view (the authors' code).

    Args:
        config: probability, and range of the area as a share of the box's.
        boxes: XYXY pixels of the view, float32 [N, 4].
        side: side of the view.
        generator: the image's.

    Returns:
        float32 [N, 4]: a square with its centre anywhere in the box, clipped to the view; zeros for a box that is
        spared.
    """
    count = len(boxes)
    drawn = generator.random(count) < config.cutout_probability
    share = generator.uniform(config.cutout_min_area, config.cutout_max_area, count)
    corner, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    centre = corner + generator.random((count, 2)) * size
    half = np.sqrt(share * size.prod(axis=1))[:, None] / 2
    squares = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, side)
    return (squares * drawn[:, None]).astype(np.float32)


def draw_augmentation(config: ViewsConfig, first: bool, generator: np.random.Generator) -> Augmentation:
    """Draw the augmentation of one view; `first` is V1, whose blur and solarisation rates differ (4.1)."""
    blur = config.blur_probability_first if first else config.blur_probability_others
    solarise = config.solarise_probability_first if first else config.solarise_probability_others

    def chance(probability: float) -> Tensor:
        return torch.tensor(bool(generator.random() < probability))

    def factor(low: float, high: float) -> Tensor:
        return torch.tensor(generator.uniform(low, high), dtype=torch.float32)

    return Augmentation(
        flip=chance(config.flip_probability),
        colour=chance(config.colour_jitter_probability),
        order=torch.from_numpy(generator.permutation(4)),
        brightness=factor(1 - config.brightness, 1 + config.brightness),
        contrast=factor(1 - config.contrast, 1 + config.contrast),
        saturation=factor(1 - config.saturation, 1 + config.saturation),
        hue=factor(-config.hue, config.hue),
        grayscale=chance(config.grayscale_probability),
        blur=chance(blur),
        sigma=factor(config.blur_min_sigma, config.blur_max_sigma),
        solarise=chance(solarise),
    )

"""From an image and its proposals to V1, V2, V3 with matched boxes (paper 3.2, "View Construction")."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from soco_core.config import ViewsConfig
from soco_core.views.boxes import (
    Boxes,
    clip_boxes,
    crop_boxes,
    flip_boxes,
    has_area,
    jitter_boxes,
    resize_boxes,
)
from soco_core.views.random_parameters import Augmentation, Crop, draw_augmentation, draw_crop, draw_jitter

CROP_DRAWS = 5
"""Crops tried for an image before the whole view stands in for its proposals (the authors' code)."""


class View(NamedTuple):
    """One view of one image, before its augmentation."""

    image: Tensor
    """RGB, uint8 [3, S, S], not yet flipped."""
    boxes: Tensor
    """Proposals in the pixels of the augmented (flipped, if so drawn) view, XYXY float32 [K, 4]."""
    augmentation: Augmentation


def construct_views(
    image: npt.NDArray[np.uint8], proposals: Boxes, config: ViewsConfig, generator: np.random.Generator
) -> list[View]:
    """Build [V1, V2, V3].

    V1 is the whole image squashed to `size`; V2 a random crop of V1, resized to `size`; V3 is V2 at
    `small_size`. Box i is the same proposal in each view.

    Args:
        image: upright RGB, uint8 [H, W, 3].
        proposals: kept boxes, XYXY pixels of the image, float32 [N, 4].
        config: sizes, ranges and probabilities.
        generator: of :func:`soco_core.views.random_parameters.image_generator`.
    """
    height, width = image.shape[:2]
    side, small = config.size, config.small_size
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    first = tvf.resize(pixels, [side, side], antialias=True)
    in_first = resize_boxes(proposals, (width, height), (side, side))

    crop, chosen = _choose(in_first, config, generator)
    left, top, crop_width, crop_height = crop
    second = tvf.resized_crop(first, top, left, crop_height, crop_width, [side, side], antialias=True)
    third = tvf.resize(second, [small, small], antialias=True)

    if chosen is None:
        whole = np.tile(np.array([[0, 0, side, side]], np.float32), (config.proposals_per_image, 1))
        boxes = [whole, whole, resize_boxes(whole, (side, side), (small, small))]
    else:
        # Jittered before the crop, so that a box at V2's border is cut as the image is.
        jittered = [_jitter(chosen, crop, config, generator) for _ in range(3)]
        boxes = [
            clip_boxes(jittered[0], (side, side)),
            resize_boxes(crop_boxes(jittered[1], crop), (crop_width, crop_height), (side, side)),
            resize_boxes(crop_boxes(jittered[2], crop), (crop_width, crop_height), (small, small)),
        ]
    return [
        _view(pixels, kept, draw_augmentation(config, number == 0, generator))
        for number, (pixels, kept) in enumerate(zip((first, second, third), boxes, strict=True))
    ]


def _choose(boxes: Boxes, config: ViewsConfig, generator: np.random.Generator) -> tuple[Crop, Boxes | None]:
    """Draw a crop and K of the proposals that it leaves; fewer are repeated, None means there is none.

    "Object proposals outside of V2 are dropped" (3.2). Where that leaves too few, another crop is drawn and
    half as many are asked for, as the authors' code does.
    """
    wanted = config.proposals_per_image
    needed = wanted
    for _ in range(CROP_DRAWS):
        crop = draw_crop(config, generator)
        inside = boxes[has_area(crop_boxes(boxes, crop))]
        if len(inside) >= needed:
            picked = generator.permutation(len(inside))[:wanted]
            return crop, inside[np.resize(picked, wanted)]
        needed = max(1, needed // 2)
    return crop, None


def _jitter(boxes: Boxes, crop: Crop, config: ViewsConfig, generator: np.random.Generator) -> Boxes:
    """Jitter proposals in V1's pixels; one that would leave V1 or the crop stays as it was."""
    jittered = jitter_boxes(boxes, draw_jitter(config, len(boxes), generator))
    return np.where(has_area(crop_boxes(jittered, crop))[:, None], jittered, boxes)


def _view(image: Tensor, boxes: Boxes, augmentation: Augmentation) -> View:
    placed = flip_boxes(boxes, image.shape[-1]) if augmentation.flip else boxes
    return View(image, torch.from_numpy(placed), augmentation)

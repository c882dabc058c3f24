"""From an image and its proposals to V1, V2, V3 and V4 with matched boxes (paper 3.2, "View Construction"; 4.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from soco_core.config import ViewsConfig
from soco_core.views.boxes import Boxes, flip_boxes, resize_boxes
from soco_core.views.placement import place_objects
from soco_core.views.random_parameters import Augmentation, Crop, draw_augmentation, draw_cutouts
from soco_core.views.selection import Canvas, select, view_frames


class View(NamedTuple):
    """One view of one image, before its augmentation; a loader's collation puts a batch dimension before each field."""

    image: Tensor
    """RGB, uint8 [3, S, S], not yet flipped."""
    boxes: Tensor
    """Objects in the pixels of the augmented (flipped, if so drawn) view, XYXY float32 [B, 4]. B is K; only V1 has K
    for each other view if they are drawn `per-pair`: block j belongs to the pair of V1 and the j-th other view."""
    ids: Tensor
    """Which of the image's proposals each box is, int64 [B], or `WHOLE_VIEW`. Equal ids are the same object, positives;
    an id repeats where an image has fewer than K."""
    cutouts: Tensor
    """Squares that become 0 after normalisation, XYXY float32 [K, 4] in the pixels of the augmented view; one without
    area cuts nothing."""
    usable: Tensor
    """bool []: False if no proposal survived and the whole view stands in; for V1, if that is so in all its pairs."""
    augmentation: Augmentation


def view_names(config: ViewsConfig) -> tuple[str, ...]:
    """Return the names of the views in their order: V1, V2 (, V3) (, V4)."""
    return ("V1", *(frame.name for frame in view_frames(config)))


def construct_views(
    image: npt.NDArray[np.uint8], proposals: Boxes, config: ViewsConfig, generator: np.random.Generator
) -> list[View]:
    """Build [V1, V2 (, V3) (, V4)].

    V1 is the whole image squashed to `size`; V2 a random crop of V1 (of the image, with `crop_source: image`), resized
    to `size`; V3 is V2 at `small_size`, or a crop of its own; V4 is another crop, at `fourth_size`. With
    `draw: shared`, box i is the same proposal in each view; with `per-pair`, box i of a view is box i of its block in
    V1.

    Args:
        image: upright RGB, uint8 [H, W, 3].
        proposals: kept boxes, XYXY pixels of the image, float32 [N, 4].
        config: which views, sizes, ranges and probabilities.
        generator: of :func:`soco_core.views.random_parameters.image_generator`.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    canvas = canvas_of(image, config)
    objects = resize_boxes(proposals, (image.shape[1], image.shape[0]), canvas.size)
    selection = select(objects, canvas, config, generator)
    placed = place_objects(objects, canvas, selection, config, generator)
    images = _images(pixels, selection.crops, config)
    augmentations = [draw_augmentation(config, number == 0, generator) for number in range(len(images))]
    flipped = [
        flip_boxes(there.boxes, picture.shape[-1]) if augmentation.flip else there.boxes
        for there, picture, augmentation in zip(placed, images, augmentations, strict=True)
    ]
    # Drawn last, so that everything else is as it would be without; V1 is spared.
    cutouts = [np.zeros((config.proposals_per_image, 4), np.float32)]
    for boxes, frame in zip(flipped[1:], view_frames(config), strict=True):
        cutouts.append(draw_cutouts(config, boxes, frame.size, generator))
    return [
        View(
            images[i],
            torch.from_numpy(flipped[i]),
            torch.from_numpy(placed[i].ids),
            torch.from_numpy(cutouts[i]),
            torch.tensor(placed[i].usable),
            augmentations[i],
        )
        for i in range(len(images))
    ]


def canvas_of(image: npt.NDArray[np.uint8], config: ViewsConfig) -> Canvas:
    """Return what the views of an image [H, W, 3] are cropped from."""
    size = (config.size, config.size) if config.crop_source == "first" else (image.shape[1], image.shape[0])
    return Canvas(size, config.size)


def _images(pixels: Tensor, crops: list[Crop], config: ViewsConfig) -> list[Tensor]:
    """Resize and crop the pixels of all views from the image, uint8 [3, H, W]."""
    first = tvf.resize(pixels, [config.size, config.size], antialias=True)
    source = first if config.crop_source == "first" else pixels
    images = [first]
    for frame in view_frames(config):
        size = [frame.size, frame.size]
        if frame.downsampled:
            images.append(tvf.resize(images[1], size, antialias=True))
        else:
            left, top, width, height = crops[frame.crop]
            images.append(tvf.resized_crop(source, top, left, height, width, size, antialias=True))
    return images

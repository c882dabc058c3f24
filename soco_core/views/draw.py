"""Pictures of images' views with their boxes, levels and matches, as in the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from soco_core import storage
from soco_core.config import ModelConfig, Recipe, ViewsConfig
from soco_core.models.regions import assign_levels
from soco_core.views.augment import denormalise
from soco_core.views.batch import prepare_views
from soco_core.views.boxes import Boxes, resize_boxes
from soco_core.views.construct import View, canvas_of, construct_views, view_names
from soco_core.views.panels import Box, Corners, Panel, draw_panels
from soco_core.views.placement import WHOLE_VIEW
from soco_core.views.random_parameters import Augmentation, image_generator
from soco_core.views.selection import select, view_frames

FIRST_INCHES = 3.2
"""Side of V1 on paper; the other views are to scale."""
LONGEST_INCHES = 4.8
LONGEST_NAME = 44
COLOURS = ("#e6194b", "#1f9d3a", "#1464f4", "#e08a00", "#c218c2", "#008b8b", "#7a4a1c", "#5b3fd6")
LEGEND = (
    "The same colour and number are the same proposal, joined from view to view; P2 to P5 (C4, C5) is where it is "
    "pooled. Dashed: a box before its jitter, or a crop. White: the other proposals. Views are to scale."
)
CUTOUT_LEGEND = " Plain squares of the mean colour: cutouts."


class PicturedImage(NamedTuple):
    """An image to draw the views of."""

    name: str
    pixels: npt.NDArray[np.uint8]
    """Upright RGB, uint8 [H, W, 3]."""
    proposals: Boxes
    """Kept boxes, XYXY pixels, float32 [N, 4]."""
    number: int
    """Its number among the set's images: with seed and epoch it determines the views."""


def draw_views(path: str | Path, images: Sequence[PicturedImage], recipe: Recipe, epoch: int = 0) -> None:
    """Write a PNG with a row for each image: the image with its proposals, then each view as the networks see it.

    If proposals are drawn `per-pair`, each pair of V1 and another view has a row of its own.

    Args:
        path: the PNG, a local path or an S3 URI.
        images: the images.
        recipe: its seed and `views` determine the views, its `model` the levels.
        epoch: the epoch, from 0.
    """
    rows = [row for image in images for row in _rows(image, recipe, epoch)]
    legend = LEGEND + (CUTOUT_LEGEND if recipe.views.cutout_probability else "")
    storage.write_bytes(path, draw_panels(rows, legend))


def _rows(image: PicturedImage, recipe: Recipe, epoch: int) -> list[list[Panel]]:
    config = recipe.views
    views = _views(image, config, recipe.seed, epoch)
    # The same random numbers, but jitter by nothing.
    unjittered = _views(image, config.model_copy(update={"jitter_range": 0.0}), recipe.seed, epoch)
    distinct = dict.fromkeys(views[0].ids.tolist())
    colours = {number: COLOURS[k % len(COLOURS)] for k, number in enumerate(distinct)}
    names = view_names(config)
    first, *others = (
        _view_panel(name, view, before, recipe, colours)
        for name, view, before in zip(names, views, unjittered, strict=True)
    )
    if config.draw == "shared":
        return [[_original(image, views[0].ids, names[1:], recipe, epoch, colours), first, *others]]
    count, rows = config.proposals_per_image, []
    for number, other in enumerate(others):
        block = slice(number * count, (number + 1) * count)
        original = _original(image, views[0].ids[block], names[number + 1 : number + 2], recipe, epoch, colours)
        rows.append([original, first._replace(boxes=first.boxes[block]), other])
    return rows


def _views(image: PicturedImage, config: ViewsConfig, seed: int, epoch: int) -> list[View]:
    return construct_views(image.pixels, image.proposals, config, image_generator(seed, epoch, image.number))


def _original(
    image: PicturedImage, ids: Tensor, cropped: Sequence[str], recipe: Recipe, epoch: int, colours: dict[int, str]
) -> Panel:
    """Draw the image with its proposals, those chosen, and the crops of the views named."""
    height, width = image.pixels.shape[:2]
    boxes = _corners(image.proposals)
    chosen = [k for k in dict.fromkeys(ids.tolist()) if k != WHOLE_VIEW]
    scale = min(FIRST_INCHES / height, LONGEST_INCHES / width)
    name = image.name if len(image.name) <= LONGEST_NAME else f"...{image.name[3 - LONGEST_NAME :]}"
    count = f"{len(boxes)} {'proposal' if len(boxes) == 1 else 'proposals'}"
    return Panel(
        image.pixels,
        (width * scale, height * scale),
        f"{name}\n{width} x {height} px, {count}",
        f"seed {recipe.seed}, epoch {epoch}",
        [Box(boxes[k], str(k), colours[k]) for k in chosen],
        thin=boxes,
        crops=_crops(image, cropped, recipe, epoch),
    )


def _crops(image: PicturedImage, names: Sequence[str], recipe: Recipe, epoch: int) -> list[tuple[str, Corners]]:
    """Return the crops of the views named, in pixels of the image; views that show the same one together."""
    height, width = image.pixels.shape[:2]
    canvas = canvas_of(image.pixels, recipe.views)
    objects = resize_boxes(image.proposals, (width, height), canvas.size)
    # Crops and choice are what is first drawn from an image's generator.
    selection = select(objects, canvas, recipe.views, image_generator(recipe.seed, epoch, image.number))
    found = []
    for number, (left, top, w, h) in enumerate(selection.crops):
        shown = [frame.name for frame in view_frames(recipe.views) if frame.crop == number and frame.name in names]
        crop = np.array([[left, top, left + w, top + h]], np.float32)
        if shown:
            found.append((" ".join(shown), _corners(resize_boxes(crop, canvas.size, (width, height)))[0]))
    return found


def _view_panel(name: str, view: View, unjittered: View, recipe: Recipe, colours: dict[int, str]) -> Panel:
    """Draw a view as the networks see it: augmented, with its cutouts."""
    [batch] = prepare_views([default_collate([view])], torch.device("cpu"))
    pixels = denormalise(batch.images)[0].permute(1, 2, 0).numpy()
    size = len(pixels)
    inches = FIRST_INCHES * size / recipe.views.size
    corners, before = _corners(view.boxes.numpy()), _corners(unjittered.boxes.numpy())
    levels = level_names(view.boxes, recipe.model)
    boxes = [
        Box(now, f"{'whole' if k == WHOLE_VIEW else k} {level}", colours[k], was if was != now else None)
        for k, now, was, level in zip(view.ids.tolist(), corners, before, levels, strict=True)
    ]
    return Panel(
        pixels,
        (inches, inches),
        f"{name}: {size} x {size} px",
        _described(view.augmentation),
        boxes,
        linked=name != "V1",
    )


def level_names(boxes: Tensor, config: ModelConfig) -> list[str]:
    """Name the feature map that each box [N, 4], in pixels of its view, is pooled from: P2 to P5, C4 or C5."""
    if config.architecture == "c4":
        return ["C4"] * len(boxes)
    if not config.use_fpn:
        return [config.backbone_level] * len(boxes)
    if not config.scale_aware:
        return [config.single_level] * len(boxes)
    return [f"P{level + 2}" for level in assign_levels(boxes, config.level_limits).tolist()]


def _described(augmentation: Augmentation) -> str:
    words = [name for name in ("flip", "colour", "grayscale") if bool(getattr(augmentation, name))]
    if augmentation.blur:
        words.append(f"blur {float(augmentation.sigma):.1f} px")
    if augmentation.solarise:
        words.append("solarise")
    return ", ".join(words) or "as it is"


def _corners(boxes: npt.NDArray[np.float32]) -> list[Corners]:
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]

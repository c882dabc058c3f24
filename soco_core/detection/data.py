"""Training batches and evaluated images: reading, resizing, flipping; every draw depends on (seed, step) alone."""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from soco_core.config import Recipe
from soco_core.datasets.split import LabelledSplit, polygons, trainable_images, usable
from soco_core.detection.masks import Mask, decode_rle
from soco_core.detection.sampling import image_batches
from soco_core.engine.distributed import Processes
from soco_core.engine.processes import start_loader_worker
from soco_core.errors import InputError
from soco_core.images.decode import DEFAULT_MAX_PIXELS, BadImageError, decode_image
from soco_core.storage import read_bytes

FLIP_PROBABILITY = 0.5
LEAST_BOX_SIDE = 1e-5
"""An object whose box is smaller after resizing is left out (detectron2)."""
Batch = tuple[list[Tensor], list[dict[str, Any]]]
Draw = tuple[int, int, int]
"""Position of an image in its split, step, place in the batch."""


class TrainingImages(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Augmented training images with their targets; an item is asked for by a :data:`Draw`."""

    def __init__(self, split: LabelledSplit, recipe: Recipe) -> None:
        self.split = split
        self.settings = recipe.finetune
        self.seed = recipe.seed
        self.max_pixels = recipe.images.max_pixels

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Any]]:
        position, step, place = draw
        # NumPy takes (seed, step) and (seed, step, 0) for the same seed; the former draws an epoch's order.
        generator = np.random.default_rng((self.seed, step, place + 1))
        short_side = int(generator.choice(self.settings.train_sizes))
        flip = bool(generator.random() < FLIP_PROBABILITY)
        record = self.split.images[position]
        pixels = read_image(self.split, record, self.max_pixels)
        masks = self.settings.has_masks
        annotations = [item for item in self.split.annotations_of[record["id"]] if usable(item, masks)]
        original = (record["height"], record["width"])
        height, width = resized_size(*original, short_side, self.settings.max_size)
        target = _target(annotations, self.split.class_of, original, (height, width), flip, masks)
        pixels = resize(pixels, height, width)
        if flip:
            pixels = pixels[:, ::-1]
        target["image_id"] = record["id"]
        return _to_tensor(pixels), target


class EvaluationImages(Dataset[tuple[Tensor, int]]):
    """Images of a split, resized to `test_size`; an item is (image, position in the split)."""

    def __init__(self, split: LabelledSplit, recipe: Recipe) -> None:
        self.split = split
        self.settings = recipe.finetune
        self.max_pixels = recipe.images.max_pixels

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        record = self.split.images[position]
        pixels = read_image(self.split, record, self.max_pixels)
        size = resized_size(record["height"], record["width"], self.settings.test_size, self.settings.max_size)
        return _to_tensor(resize(pixels, *size)), position


def training_batches(
    split: LabelledSplit, recipe: Recipe, first_step: int, steps: int, processes: Processes
) -> Generator[Batch, None, None]:
    """Yield this process's part of the batches of the steps `first_step` .. `steps` - 1.

    Images without a usable annotation are left out, as detectron2 does.

    Raises:
        InputError: there is nothing to train on, or an image cannot be read.
    """
    settings = recipe.finetune
    masks = settings.has_masks
    trainable = trainable_images(split, masks)
    batches = image_batches(split, trainable, settings.batch_size, recipe.seed, settings.repeat_threshold, masks)
    # The order is replayed from its beginning: cheap, and what came before an interruption cannot change it.
    draws = (
        [(position, step, place) for place, position in enumerate(batch)][processes.rank :: processes.count]
        for step, batch in islice(enumerate(batches), first_step, steps)
    )
    loader: DataLoader[Any] = DataLoader(
        TrainingImages(split, recipe),
        batch_sampler=draws,
        collate_fn=_collate,
        num_workers=min(recipe.runtime.workers, steps - first_step),
        worker_init_fn=partial(start_loader_worker, os.getpid()),
    )
    yield from loader


def evaluation_batches(
    split: LabelledSplit, recipe: Recipe, positions: range
) -> Generator[tuple[Tensor, int], None, None]:
    """Yield (image, position) of the images of a split at `positions`, in order."""
    dataset = EvaluationImages(split, recipe)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=positions,
        num_workers=min(recipe.runtime.workers, len(positions)),
        worker_init_fn=partial(start_loader_worker, os.getpid()),
    )
    yield from loader


def read_image(split: LabelledSplit, record: dict[str, Any], max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Return an image, upright RGB uint8 [H, W, 3].

    Args:
        split: holds the image.
        record: the image's.
        max_pixels: an image of more pixels is refused (the recipe's `images.max_pixels`).

    Raises:
        InputError: it cannot be read or decoded, or its size is not the annotation file's.
    """
    path = split.image_uri(record)
    try:
        pixels = decode_image(read_bytes(path), max_pixels)
    except BadImageError as error:
        large = record["width"] * record["height"] > max_pixels
        remedy = "raise images.max_pixels, or scale the image down" if large else "restore the file"
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    height, width = pixels.shape[:2]
    if (width, height) != (record["width"], record["height"]):
        raise InputError(
            f"{path}: is {width}x{height} pixels, but {_annotated_in(split, record)} says "
            f"{record['width']}x{record['height']}; correct its width and height; images are turned upright by their "
            "EXIF first"
        )
    return pixels


def _annotated_in(split: LabelledSplit, record: dict[str, Any]) -> str:
    """Return the file that says an image's size; VOC has one for each image."""
    if split.format == "voc":
        return f"Annotations/{PurePosixPath(record['file_name']).stem}.xml"
    return split.annotation_file.rpartition("/")[2]


def resized_size(height: int, width: int, short_side: int, max_size: int) -> tuple[int, int]:
    """Return (height, width) after the short side became `short_side`, the long one at most `max_size`; 1 at least."""
    scale = short_side / min(height, width)
    if max(height, width) * scale > max_size:
        scale = max_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize as detectron2 does: PIL, bilinear, antialiased."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _target(
    annotations: list[dict[str, Any]],
    class_of: dict[int, int],
    original: tuple[int, int],
    resized: tuple[int, int],
    flip: bool,
    with_masks: bool,
) -> dict[str, Any]:
    """Move boxes, and masks if they are wanted, along with the image; boxes XYXY, clipped to it."""
    scale = np.array([resized[1] / original[1], resized[0] / original[0]])
    boxes, labels, masks = [], [], []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        corners = np.array([[x, y], [x + width, y + height]]) * scale
        if flip:
            corners[:, 0] = resized[1] - corners[::-1, 0]
        corners = corners.clip(0, (resized[1], resized[0]))
        if (corners[1] - corners[0]).min() > LEAST_BOX_SIDE:
            boxes.append(corners.ravel())
            labels.append(class_of[annotation["category_id"]] + 1)
            if with_masks:
                masks.append(_mask(annotation, original, resized, scale, flip))
    target = {
        "boxes": torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    return target | ({"masks": masks} if with_masks else {})


def _mask(
    annotation: dict[str, Any],
    original: tuple[int, int],
    resized: tuple[int, int],
    scale: NDArray[np.float64],
    flip: bool,
) -> Mask:
    if isinstance(annotation["segmentation"], dict):
        bitmap = decode_rle(annotation["segmentation"], original[0], original[1])
        shape = (resized[1], resized[0])
        bitmap = np.array(Image.fromarray(bitmap).resize(shape, Image.Resampling.NEAREST))
        return np.ascontiguousarray(bitmap[:, ::-1] if flip else bitmap)
    moved = []
    for polygon in polygons(annotation):
        points = polygon.reshape(-1, 2) * scale
        if flip:
            points[:, 0] = resized[1] - points[:, 0]
        moved.append(points.ravel())
    return moved


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _collate(items: list[tuple[Tensor, dict[str, Any]]]) -> Batch:
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)

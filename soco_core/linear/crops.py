"""Crops for training and evaluation, and the batches they come in; every draw depends on (seed, epoch, image) alone."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from soco_core import storage
from soco_core.config import ViewsConfig
from soco_core.datasets.labels import FolderLabels
from soco_core.engine.processes import start_loader_worker
from soco_core.errors import InputError
from soco_core.images import BadImageError, decode_image
from soco_core.linear_config import LinearConfig
from soco_core.views.random_parameters import draw_crop, image_generator

FLIP_PROBABILITY = 0.5
Key = tuple[int, int]
"""(epoch, image number)."""
Evaluated = tuple[Tensor, Tensor, list[str]]
"""Crops uint8 [N, 3, S, S], image numbers int64 [N], and why an image has no crop (empty: it has one)."""


class Files:
    """The image files of a split, in so little memory that every loader's process may have them.

    Args:
        split: the split.
        max_pixels: an image of more pixels is bad.
    """

    def __init__(self, split: FolderLabels, max_pixels: int) -> None:
        self.source, self.max_pixels = split.source, max_pixels
        # Counting references to a million strings would copy their memory into each forked process.
        self.ids = np.array([name.encode() for name in split.ids])
        self.labels = np.array(split.labels, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, number: int) -> str:
        """Return where an image lies, for people."""
        return storage.join(self.source.root, self.id(number))

    def read(self, number: int) -> Image.Image:
        """Return an image, upright RGB.

        Raises:
            BadImageError: it cannot be decoded.
            InputError: the store or the file system failed.
        """
        return Image.fromarray(decode_image(self.source.read_bytes(self.id(number)), self.max_pixels))

    def id(self, number: int) -> str:
        """Return an image's path relative to the root."""
        name: str = self.ids[number].decode()
        return name


class TrainingCrops(Dataset[tuple[Tensor, int]]):
    """Random crops, flipped at random, uint8 [3, S, S], with their labels; an item is asked for by a :data:`Key`."""

    def __init__(self, files: Files, config: LinearConfig, seed: int) -> None:
        self.files, self.config, self.seed = files, config, seed
        self._crops = ViewsConfig(crop_min_scale=config.crop_min_scale, crop_max_scale=1.0)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, number = key
        try:
            image = self.files.read(number)
        except BadImageError as error:
            raise InputError(
                f"{self.files.name(number)}: {error}, but it could be read when the evaluation began; restore the "
                "file, or delete the result to begin anew"
            ) from error
        generator = image_generator(self.seed, epoch, number)
        left, top, width, height = draw_crop(self._crops, image.size, generator)
        side = self.config.image_size
        # Cropped first: a resize of a part would look beyond its border.
        image = image.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)
        if generator.random() < FLIP_PROBABILITY:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _to_tensor(image), int(self.files.labels[number])


class CentreCrops(Dataset[tuple[Tensor, int, str]]):
    """Resized images' centres, uint8 [3, S, S], by image number; a bad image is black, with the reason (B)."""

    def __init__(self, files: Files, config: LinearConfig) -> None:
        self.files, self.config = files, config

    def __getitem__(self, number: int) -> tuple[Tensor, int, str]:
        side = self.config.image_size
        try:
            image = self.files.read(number)
        except BadImageError as error:
            return torch.zeros(3, side, side, dtype=torch.uint8), number, str(error)
        return _to_tensor(centre_crop(image, self.config)), number, ""


def centre_crop(image: Image.Image, config: LinearConfig) -> Image.Image:
    """Resize an image, bilinear with antialiasing, and return its centre, `image_size` x `image_size`."""
    width = height = config.resize
    if config.resize_mode == "short-side":
        shorter = min(image.size)
        width, height = (max(config.resize, int(side * config.resize / shorter)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - config.image_size) / 2), round((height - config.image_size) / 2)
    return resized.crop((left, top, left + config.image_size, top + config.image_size))


def epoch_batches(usable: NDArray[np.int64], batch_size: int, steps: range, seed: int) -> Iterator[list[Key]]:
    """Yield the batches of some steps: each epoch is a permutation drawn from (seed, epoch) alone.

    The last, partial batch of an epoch is dropped.

    Args:
        usable: numbers of the images that there are to train on.
        batch_size: images in a batch, at most as many as there are.
        steps: those that are left, counted from the first of the first epoch.
        seed: the recipe's seed.
    """
    steps_per_epoch = len(usable) // batch_size
    order = usable[:0]
    for step in steps:
        epoch, position = divmod(step, steps_per_epoch)
        if position == 0 or not len(order):
            order = np.random.default_rng([seed, epoch]).permutation(usable)
        first = position * batch_size
        yield [(epoch, number) for number in order[first : first + batch_size].tolist()]


def load(
    crops: Dataset[Any], batches: Iterable[list[Any]], workers: int, device: torch.device
) -> Generator[Any, None, None]:
    """Load batches of crops in `workers` processes (in this one, if 0)."""
    yield from DataLoader(
        crops,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=partial(start_loader_worker, os.getpid()),
        pin_memory=device.type == "cuda",
    )


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

"""Batches of views for the pretraining: one decoding an image, geometry only, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from soco_core import storage
from soco_core.artifacts.proposals import Proposals
from soco_core.config import Recipe
from soco_core.engine.processes import start_loader_worker
from soco_core.errors import InputError
from soco_core.images import BadImageError, ImageSource, decode_image
from soco_core.views.construct import View, construct_views
from soco_core.views.random_parameters import image_generator

Key = tuple[int, int]
"""(epoch, image number)."""


class ViewDataset(Dataset[list[View]]):
    """The views of an image in an epoch; the same for every worker, batch position and run.

    It holds no list of the images: their ids are read from the proposals as they are needed.

    Args:
        recipe: the resolved recipe.
        proposals: the boxes of every usable image.
        source: where those images lie.
    """

    def __init__(self, recipe: Recipe, proposals: Proposals, source: ImageSource) -> None:
        self.recipe = recipe
        self.proposals = proposals
        self.source = source

    def __getitem__(self, key: Key) -> list[View]:
        epoch, number = key
        generator = image_generator(self.recipe.seed, epoch, number)
        return construct_views(self.image(number), self.proposals.boxes(number), self.recipe.views, generator)

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        """Return an image of the set, upright RGB, uint8 [H, W, 3].

        Raises:
            InputError: it cannot be read any more, or has another size than when the proposals were made.
        """
        name = self.proposals.id(number)
        width, height = self.proposals.size(number)
        # The proposals may have been made with a higher limit than this recipe's.
        max_pixels = max(self.recipe.images.max_pixels, width * height)
        try:
            image = decode_image(self.source.read_bytes(name), max_pixels)
        except BadImageError as error:
            raise InputError(
                f"{storage.join(self.source.root, name)}: {error}, but it could be read when the proposals were made; "
                "restore the file, name its new place with --images, or make the proposals again"
            ) from error
        if image.shape[:2] != (height, width):
            raise InputError(
                f"{storage.join(self.source.root, name)}: {image.shape[1]}x{image.shape[0]} pixels, but "
                f"{width}x{height} when the proposals were made; restore the file, or make the proposals again"
            )
        return image


class EpochBatches(Sampler[list[Key]]):
    """Batches of all remaining steps: each epoch is a permutation drawn from (seed, epoch) alone.

    The last, partial batch of an epoch is dropped.

    Args:
        count: images of the set.
        batch_size: images in a batch, at most `count`.
        epochs: passes over the set.
        seed: the recipe's seed.
        first_step: steps that are already done.
    """

    def __init__(self, count: int, batch_size: int, epochs: int, seed: int, first_step: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.steps_per_epoch = count // batch_size
        self.total_steps = epochs * self.steps_per_epoch

    def __len__(self) -> int:
        return self.total_steps - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.zeros(0, np.int64)
        for step in range(self.first_step, self.total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or not len(order):
                order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            first = position * self.batch_size
            yield [(epoch, number) for number in order[first : first + self.batch_size].tolist()]


def view_loader(
    dataset: ViewDataset, batches: Sampler[list[Key]], workers: int, device: torch.device, ahead: int = 1
) -> DataLoader[list[View]]:
    """Load batches of views in `workers` processes (in this one, if 0), at least `ahead` of them beforehand."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=max(2, -(-ahead // workers)) if workers else None,
        worker_init_fn=partial(start_loader_worker, os.getpid()),
        pin_memory=device.type == "cuda",
    )

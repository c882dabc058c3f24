"""Whose images are whose: a global batch divided into passes, and each of them among the processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Sampler

from soco_core.errors import SocoError
from soco_core.pretrain.data import EpochBatches, Key


@dataclass(frozen=True)
class Division:
    """How a global batch is divided: contiguously, into parts whose sizes differ by one image at most.

    Batch norm sees the images of a pass, so the result depends on the number of passes, not on that of processes.
    """

    batch_size: int
    """Images of the global batch."""
    processes: int
    passes: int
    """Forward and backward passes of a step; their gradients are accumulated."""

    @property
    def images_per_process(self) -> int:
        """Most images that a process holds at once."""
        return -(-self.batch_size // (self.processes * self.passes))

    @property
    def norm_images(self) -> int:
        """Images that batch norm sees at once."""
        return -(-self.batch_size // self.passes)

    def part(self, batch: list[Key], rank: int, number: int) -> list[Key]:
        """Return what process `rank` computes in pass `number` of a global batch."""
        return _slice(_slice(batch, number, self.passes), rank, self.processes)

    def summary(self) -> dict[str, Any]:
        """What ``done.json`` says of it."""
        return {
            "processes": self.processes,
            "images_per_process": self.images_per_process,
            "accumulation_steps": self.passes,
        }


def divide(batch_size: int, processes: int, images_per_process: int | None) -> Division:
    """Divide a global batch into as few passes as leave no process more than `images_per_process` at once.

    Raises:
        SocoError: a process would have nothing to do in some pass.
    """
    largest, least = -(-batch_size // processes), batch_size // processes
    passes = -(-largest // (images_per_process or largest))
    if least < 1:
        raise SocoError(
            f"a batch of {batch_size} images has none for some of {processes} processes; start at most {batch_size}, "
            "or raise pretrain.batch_size"
        )
    if least < passes:
        raise SocoError(
            f"runtime.images_per_process: {passes} passes of a batch of {batch_size} images over {processes} processes "
            f"leave some without an image; set it to {-(-largest // least)} or more"
        )
    return Division(batch_size, processes, passes)


def shares(batch: list[Key], division: Division) -> list[list[Key]]:
    """Return what each process computes of a global batch, all its passes together."""
    return [
        [key for number in range(division.passes) for key in division.part(batch, rank, number)]
        for rank in range(division.processes)
    ]


class ShareOfBatches(Sampler[list[Key]]):
    """What one process loads: its part of every pass of every batch.

    Args:
        batches: the global batches of the remaining steps.
        division: how each is divided.
        rank: number of the process.
    """

    def __init__(self, batches: EpochBatches, division: Division, rank: int) -> None:
        self.batches, self.division, self.rank = batches, division, rank

    def __len__(self) -> int:
        return len(self.batches) * self.division.passes

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches:
            for number in range(self.division.passes):
                yield self.division.part(batch, self.rank, number)


def _slice(items: list[Key], number: int, parts: int) -> list[Key]:
    """Return one of `parts` contiguous parts; the first ones are longer by one where it does not divide."""
    least, longer = divmod(len(items), parts)
    first = number * least + min(number, longer)
    return items[first : first + least + (number < longer)]

"""One pass over images in all processes: each takes its part of every batch, and all stop together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from soco_core.config import Recipe
from soco_core.engine.distributed import Processes, Wishes
from soco_core.engine.interrupt import InterruptGuard
from soco_core.engine.loading import Loading
from soco_core.engine.progress import Progress
from soco_core.linear.crops import CentreCrops, Evaluated, Files, load


def centre_batches(files: Files, recipe: Recipe, processes: Processes, label: str, kept: str) -> Iterator[Evaluated]:
    """Yield this process's part of the centre crops of all images, in order, a batch at a time.

    Args:
        files: the images.
        recipe: the resolved recipe.
        processes: this one's place; each has every n-th image.
        label: what the pass is called on the screen.
        kept: what a signal leaves, for people.

    Raises:
        InputError: the store or the file system failed, in any process.
        InterruptedStageError: SIGINT or SIGTERM came, in any process.
    """
    rounds = _rounds(np.arange(len(files)), recipe.linear.batch_size)
    own = [part for part in (batch[processes.rank :: processes.count].tolist() for batch in rounds) if part]
    source = load(CentreCrops(files, recipe.linear), own, recipe.runtime.workers, processes.device)
    with (
        InterruptGuard(processes.ask_to_stop) as guard,
        Progress(label, len(files), unit="images") if processes.first else nullcontext() as progress,
        Loading(source, processes.device) as loading,
    ):
        for number, batch in enumerate(rounds):
            loaded, error = None, None
            try:
                if number < len(own):
                    loaded = loading.next(lambda: bool(guard.signal or processes.asked_to_stop))
            except Exception as caught:
                error = caught
            asked = guard.signal or (processes.asked_to_stop if number < len(own) and loaded is None else 0)
            stop = processes.agree(error, Wishes(asked)).stop
            if stop:
                guard.signal = signal.Signals(stop)
                guard.stop_if_asked(kept)
            if loaded is not None:
                yield loaded
            if progress is not None:
                progress.advance(len(batch))


def _rounds(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]

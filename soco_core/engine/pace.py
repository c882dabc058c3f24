"""How fast a training is, and whether it waits for its data: a GPU that idles for images looks busy otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from soco_core.console import say
from soco_core.engine.setup import usable_cores

SETTLING_STEPS = 10
"""Steps of which nothing is concluded: the loader's processes are only starting."""
JUDGED_STEPS = 50
LARGEST_SHARE = 0.2
"""Of the time of that many steps; a larger share spent waiting is warned of."""


class Pace:
    """The clock of a training.

    Args:
        name: of the training.
        images_per_step: of all processes.
        workers: processes that load its data.
        warns: whether it warns, once, of long waits for data; on a CPU, which loads and computes on the same cores,
            they mean little.
    """

    def __init__(self, name: str, images_per_step: int, workers: int, warns: bool) -> None:
        self.name, self.images_per_step, self.workers, self.warns = name, images_per_step, workers, warns
        self._settling = SETTLING_STEPS
        self._judged_steps, self._judged_seconds, self._judged_waits = 0, 0.0, 0.0
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._began, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def step(self) -> None:
        """Count a step."""
        self._steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - began

    def look(self) -> dict[str, float]:
        """Return the means over the steps since the last call, one at least, and count anew.

        Returns:
            ``seconds_per_step``, ``images_per_second``, and ``data_wait``: the share of the time, in [0, 1], that was
            spent waiting for batches.
        """
        steps, waited, seconds = self._steps, self._waited, time.perf_counter() - self._began
        self.begin()
        if self._settling > 0:
            self._settling -= steps
        else:
            self._judge(steps, seconds, waited)
        return {
            "seconds_per_step": seconds / steps,
            "images_per_second": self.images_per_step * steps / seconds,
            "data_wait": waited / seconds,
        }

    def _judge(self, steps: int, seconds: float, waited: float) -> None:
        self._judged_steps += steps
        self._judged_seconds += seconds
        self._judged_waits += waited
        if self._judged_steps < JUDGED_STEPS:
            return
        share = self._judged_waits / self._judged_seconds
        self._judged_steps, self._judged_seconds, self._judged_waits = 0, 0.0, 0.0
        if self.warns and share > LARGEST_SHARE:
            self.warns = False
            say(
                f"warning: {self.name}: the GPU waits for data {100 * share:.0f} % of the time; raise runtime.workers "
                f"({self.workers} load for each process, and this machine has {usable_cores()} cores), or keep the "
                "images nearer (a local disk, a pack)"
            )

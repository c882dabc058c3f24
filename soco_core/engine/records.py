"""What the first process keeps of a training: curves, speed, progress, checkpoints.

A disk that is full, or a store that is away, does not stop the training: it is said once, what could not be written
waits, and is written once that is possible again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from soco_core.artifacts.disk import FULL
from soco_core.artifacts.metrics import MetricsWriter
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import RuntimeConfig
from soco_core.console import say
from soco_core.engine.checkpoints import Checkpointer
from soco_core.engine.progress import Progress
from soco_core.errors import SocoError, one_line
from soco_core.tracking import Tracker

METRICS = "metrics.jsonl"
SPEED = "speed.jsonl"
"""Apart from the metrics, which are the same for the same recipe and inputs."""
STOP_SECONDS = 10.0
"""How long a stop waits for the store; `torchrun` kills 30 s after a signal."""


class Records:
    """Writes the curves and checkpoints of a training to the result directory, MLflow and the screen.

    Args:
        name: of the training, such as ``pretrain``.
        result: the result directory.
        tracker: gets a point of each curve every `log_steps`.
        runtime: of the recipe.
        checkpoints: where the state goes.
        total_steps, first_step: of the whole training, and those that an earlier attempt did.
    """

    def __init__(
        self,
        name: str,
        result: ResultDirectory,
        tracker: Tracker,
        runtime: RuntimeConfig,
        checkpoints: Checkpointer,
        total_steps: int,
        first_step: int,
    ) -> None:
        self.name, self.result, self.tracker = name, result, tracker
        self.runtime, self.checkpoints, self.total_steps = runtime, checkpoints, total_steps
        self.metrics = MetricsWriter(result.path / METRICS, first_step)
        self.speed = MetricsWriter(result.path / SPEED, first_step)
        self.progress = Progress(name, total_steps, first_step, "steps")
        self._tried = time.monotonic()
        self._settled = False
        self._standing: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for part in (self.metrics, self.speed, self.progress):
            self._open.enter_context(part)
        self.checkpoints.send_newest(self.metrics.path, self.speed.path)
        return self

    def step(self, step: int, values: dict[str, float], speed: dict[str, float], note: str) -> None:
        """Write a finished step; `speed` is the mean over the steps that are written together."""
        self.metrics.write(step, values)
        self.speed.write(step, speed)
        if step % self.runtime.log_steps == 0 or step == self.total_steps - 1:
            self.tracker.log(step, {**values, **speed})
        self.progress.advance(note=note)

    @property
    def time_is_up(self) -> bool:
        """Whether `checkpoint_minutes` have passed since the last checkpoint was begun."""
        return time.monotonic() - self._tried >= 60 * self.runtime.checkpoint_minutes

    def save(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Begin to write a checkpoint; its lines are on the disk before it."""
        self._tried = time.monotonic()
        # Both are tried. Without its lines a checkpoint would leave a hole in the curves.
        if all([self.metrics.keep(), self.speed.keep()]):
            self.checkpoints.save(step, state(), self.metrics.path, self.speed.path)

    def look(self) -> Exception | None:
        """Say what cannot be written, once; return what must end the training."""
        disk = self.metrics.trouble or self.speed.trouble or self.checkpoints.trouble
        self._note(
            "disk",
            f"{self.result.path} cannot be written ({_cause(disk)}); {_remedy(disk)}" if disk else "",
            "its lines wait in memory, and the next checkpoint is tried as usual",
        )
        store = self.checkpoints.uploads.trouble
        self._note(
            "store", one_line(store) if store else "", f"everything is kept in {self.result.path} and sent later"
        )
        return self.checkpoints.failure or self.checkpoints.uploads.failure

    def close(self, step: int, stopping: bool) -> str:
        """Wait until the state after `step` steps is saved; say where, if only on the local disk.

        Raises:
            SocoError: it could not be saved.
            Exception: what must end the training.
        """
        checkpoints, uploads = self.checkpoints, self.checkpoints.uploads
        checkpoints.wait()
        if checkpoints.failure is None and checkpoints.saved != step:
            cause = checkpoints.trouble or self.metrics.trouble or self.speed.trouble
            kept = f"that of step {checkpoints.saved}" if checkpoints.saved is not None else "none"
            raise SocoError(
                f"{self.name}: the checkpoint of step {step} could not be written to {checkpoints.folder} "
                f"({_cause(cause)}), the newest one is {kept}; {_remedy(cause)} and run the same command again"
            ) from cause
        uploads.settle(STOP_SECONDS if stopping else None)
        self._settled = True
        failure = self.look()
        if failure is not None:
            raise failure
        return f" in {self.result.path}, and not yet in the store" if uploads.waiting else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.checkpoints.wait()
        if not self._settled and not isinstance(error, KeyboardInterrupt):  # that is the second signal
            self.checkpoints.uploads.settle(STOP_SECONDS)
            self.look()  # what the last save met is said, even where another error ends the training
        self.checkpoints.uploads.close()
        self._open.__exit__(kind, error, trace)

    def _note(self, what: str, trouble: str, meanwhile: str) -> None:
        if trouble and what not in self._standing:
            self._standing.add(what)
            say(f"warning: {self.name}: {trouble}. Training goes on: {meanwhile}")
        elif not trouble and what in self._standing:
            self._standing.discard(what)
            say(f"{self.name}: the {what} can be written again, nothing was lost")


def _cause(error: OSError | None) -> str:
    if error is None:
        return "no cause was given"
    return error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)


def _remedy(error: OSError | None) -> str:
    return "free some space" if error is None or error.errno in FULL else "see to that disk"

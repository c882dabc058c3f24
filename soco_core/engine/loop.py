"""The loop of all training: steps, checkpoints, signals, and the agreement of the processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from soco_core.artifacts.result import ResultDirectory
from soco_core.config import RuntimeConfig
from soco_core.console import say
from soco_core.engine.checkpoints import Checkpointer
from soco_core.engine.distributed import Processes, Wishes
from soco_core.engine.interrupt import InterruptGuard
from soco_core.engine.loading import Loading
from soco_core.engine.pace import Pace
from soco_core.engine.records import Records
from soco_core.tracking import Tracker

B = TypeVar("B")

LONG_SECONDS = 20.0
"""`torchrun` and Kubernetes kill 30 s after a signal: a step of more leaves a checkpoint too little."""


class UnfinishedStepError(Exception):
    """A step was left between two of its parts, and the state is as it was before it."""


class Finished(NamedTuple):
    """A finished step, as it is written down."""

    step: int
    """Counted from 0."""
    values: dict[str, float]
    """Its line of ``metrics.jsonl``."""
    note: str
    """What the progress shows of it."""


class Task(Protocol[B]):
    """What a training computes; each process has one, and they compute every step together."""

    name: str
    total_steps: int
    steps_per_epoch: int
    """0 if the training is not counted in epochs."""
    images_per_step: int
    """Of all processes."""
    saved_before: int
    """The state is saved before each n-th step, with which something long begins; 0: before none."""

    def batches(self, first_step: int) -> Generator[B, None, None]:
        """Load what this process needs for each step from `first_step` on; all of a step at once."""

    def step(self, step: int, batch: B) -> None:
        """Compute a step.

        Raises:
            UnfinishedStepError: :attr:`TrainingLoop.stopping` said so between two parts of it.
        """

    def measured(self) -> Iterator[Finished]:
        """Yield the steps computed since the last call; in all processes.

        Raises:
            SocoError: the training diverged.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step needs: plain types, containers, tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, or from the beginning if it is empty."""


class TrainingLoop(Generic[B]):
    """Runs the steps of a task that are left after its last checkpoint.

    Args:
        task: what is trained.
        runtime: of the recipe.
        processes: this one's place among them.
        result: in the first process, the result directory; metrics and checkpoints go there.
        tracker: in the first process, gets the curves.
        read_steps: steps after which those that were measured are fetched, which waits for the device.
        shorten: what makes a step shorter, said if one takes too long to be ended in time by a signal.
    """

    def __init__(
        self,
        task: Task[B],
        runtime: RuntimeConfig,
        processes: Processes,
        result: ResultDirectory | None = None,
        tracker: Tracker | None = None,
        read_steps: int = 1,
        shorten: str = "a faster device or smaller batches make it shorter",
    ) -> None:
        self.task, self.runtime, self.processes = task, runtime, processes
        self.result, self.tracker, self.read_steps = result, tracker, read_steps
        self.step = 0
        self.shorten = shorten
        self._guard = InterruptGuard(processes.ask_to_stop)
        warns = processes.first and processes.device.type == "cuda"
        self._pace = Pace(task.name, task.images_per_step, runtime.workers, warns)
        self._heard = time.monotonic()
        """When a signal could be answered for the last time."""
        self._warned = False
        self._checkpoints: Checkpointer | None = None
        if result is not None:
            for_good = task.steps_per_epoch * runtime.checkpoint_keep_epochs
            self._checkpoints = Checkpointer(result, runtime.checkpoints_kept, for_good)

    def run(self) -> None:
        """Run all steps that are left; the last state is saved when this returns.

        Raises:
            InterruptedStageError: SIGINT or SIGTERM came, here or in another process; the state is saved.
            InputError: what a step needs cannot be read; the state before that step is saved.
            SocoError: the training diverged, or the last state could not be saved.
        """
        self._resume()
        # A loader that is left to the interpreter's end may wait for its workers until it is killed.
        with (
            self._guard as guard,
            self._recording() as records,
            Loading(self.task.batches(self.step), self.processes.device) as batches,
        ):
            self._pace.begin()
            while self.step < self.task.total_steps:
                batch, wishes = self._next(batches, records)
                if any(wishes):
                    self._save(records)
                if wishes.stop:
                    break
                try:
                    self._compute(batch)
                except UnfinishedStepError:
                    self._save(records)
                    break
                if self._is_due():
                    self._save(records)
                elif self.step % self.read_steps == 0:
                    self._look(records)
            self._end(guard, records)

    def stopping(self, error: Exception | None = None) -> bool:
        """Tell whether a signal came, here or in another process; all processes ask at the same point of a step.

        Args:
            error: what went wrong here since; it ends all, unless they stop.
        """
        self._hear()
        return bool(self.processes.agree(error, Wishes(self._guard.signal or 0)).stop)

    def _compute(self, batch: B) -> None:
        self._heard = time.monotonic()
        self.task.step(self.step, batch)
        self._hear()
        self.step += 1
        self._pace.step()

    def _hear(self) -> None:
        """Say, once, that a signal would have been answered too late."""
        now = time.monotonic()
        seconds, self._heard = now - self._heard, now
        if seconds > LONG_SECONDS and not self._warned:
            self._warned = True
            if self.processes.first:
                say(
                    f"warning: {self.task.name}: step {self.step} could not be stopped for {seconds:.0f} s, and 30 s "
                    f"after a signal it may be killed, back to its last checkpoint: {self.shorten}"
                )

    def _next(self, batches: Loading[B], records: Records | None) -> tuple[B, Wishes]:
        """Load the next batch, unless asked to stop; errors and wishes of any process come to light here."""
        batch = None
        error = None
        try:
            with self._pace.waiting():
                batch = batches.next(lambda: bool(self._asked))
        except Exception as caught:
            error = caught
        failure = records.look() if records is not None else None
        # What another process was asked matters only to one that gave up for it: the others hear of it all together.
        asked = self._asked if batch is None and error is None else self._guard.signal or 0
        wishes = Wishes(asked, int(records is not None and records.time_is_up))
        try:
            wishes = self.processes.agree(failure or error, wishes)
        except Exception:
            if self.processes.agreed and self.step > 0:
                self._save(records)
            raise
        return batch, wishes  # type: ignore[return-value]

    @property
    def _asked(self) -> int:
        """Number of the signal that this process got, or heard of; 0 if there was none."""
        return self._guard.signal or self.processes.asked_to_stop

    def _is_due(self) -> bool:
        """Tell whether a checkpoint is due after a step, the same in all processes."""
        epoch_end = self.task.steps_per_epoch and self.step % self.task.steps_per_epoch == 0
        last = self.step == self.task.total_steps
        long_next = self.task.saved_before and self.step % self.task.saved_before == 0
        return bool(epoch_end or long_next) or last or self.step % self.runtime.checkpoint_steps == 0

    def _look(self, records: Records | None) -> None:
        """Fetch what was measured since the last time, and write it down."""
        speed: dict[str, float] = {}
        for finished in self.task.measured():
            speed = speed or self._pace.look()
            if records is not None:
                records.step(*finished[:2], speed, finished.note)

    def _save(self, records: Records | None) -> None:
        """Save the state after the last step; what was measured until then is found finite first."""
        self._look(records)
        if records is not None:
            records.save(self.step, self.task.state_dict)

    def _end(self, guard: InterruptGuard, records: Records | None) -> None:
        # The signal of one process is that of all, also one that came in the last step.
        asked = self.processes.agree(wishes=Wishes(guard.signal or 0)).stop
        guard.signal = signal.Signals(asked) if asked else None
        where = self.processes.together(lambda: records.close(self.step, bool(asked)) if records is not None else "")
        guard.stop_if_asked(f"the state after step {self.step} of {self.task.total_steps} is saved{where}")

    def _recording(self) -> AbstractContextManager[Records | None]:
        if self.result is None or self.tracker is None or self._checkpoints is None:
            return nullcontext()
        total = self.task.total_steps
        return Records(self.task.name, self.result, self.tracker, self.runtime, self._checkpoints, total, self.step)

    def _resume(self) -> None:
        """Go on from the first process's last checkpoint, in all processes."""
        checkpoints = self._checkpoints
        loaded = self.processes.together(lambda: checkpoints.load_latest() if checkpoints is not None else None)
        state = self.processes.share(loaded)
        self.task.load_state_dict(state or {})
        if state is not None:
            self.step = state["step"]
            if self.processes.first:
                say(f"{self.task.name}: going on from step {self.step} of {self.task.total_steps}")

"""A stage's training in several processes of this machine: `torchrun` starts its command, this process waits.

The processes compute the result that the stage would compute in this one. What they say passes through; how they end is
told as the stage tells it, by one error.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from soco_core.artifacts.result import ResultDirectory, find_result
from soco_core.config import Recipe
from soco_core.console import STAGE_LABEL, say
from soco_core.engine.processes import LAUNCHING_STEP
from soco_core.engine.setup import usable_cores
from soco_core.errors import InputError, InterruptedStageError, SocoError
from soco_core.launch.recipe_file import hand_over
from soco_core.tracking import TrackingContext

TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
TRACEBACK = "Traceback (most recent call last):"
OF_A_BUG = " (--debug shows the traceback)"
"""Ends the line of an error that no user can act on (soco_core/cli.py)."""
STOPPED = re.compile(r"stopped(?: by |;)")
LAST_LINES = 20
DRAIN_SECONDS = 10.0
"""How long the last lines are waited for; a process that outlives `torchrun` would keep them open."""


@dataclass(frozen=True)
class Training:
    """A stage that trains."""

    stage: str
    """Its command of `soco`."""
    recipe: Recipe
    arguments: Mapping[str, str]
    """Of the command, but for the recipe; what is empty is left out."""
    here: Callable[[], ResultDirectory]
    """The stage, in this process."""
    locate: Callable[[], ResultDirectory]
    """Finds its result, whole or not, without computing anything."""
    divides: Callable[[int], bool]
    """Tells whether a step's batch can be divided among so many processes."""
    tracking: TrackingContext | None = None


def train_here(training: Training) -> ResultDirectory:
    """Run a training in as many processes as `runtime.processes` says; a result that is whole starts none.

    Raises:
        InterruptedStageError: this process got SIGTERM or SIGINT, or one of the training's did; what was finished is
            kept.
        SocoError: the training failed, with the cause that its processes gave; or it computed another result than this
            process looked for.
    """
    count = _count(training)
    if count == 1:
        return training.here()
    result = training.locate()
    if result.done is not None:
        return training.here()
    recipe_file = hand_over(training.recipe, result)
    given = {"--recipe": recipe_file, **{name: value for name, value in training.arguments.items() if value}}
    command = [training.stage, *(f"{name}={value}" for name, value in given.items()), "--debug"]
    say(f"{training.stage}: {count} processes")
    found = _torchrun(count, command, training.tracking)
    if found != result.uri:
        raise SocoError(
            f"the {count} processes computed {found or 'no result'}, not {result.uri}, which this one looked for; were "
            "inputs or soco changed meanwhile? Run the same again"
        )
    with suppress(InputError):
        return find_result(result.uri, training.stage)
    raise SocoError(f"the {count} processes have ended, but {result.uri} is not a finished result; was it removed?")


def _count(training: Training) -> int:
    runtime = training.recipe.runtime
    if os.environ.get("WORLD_SIZE", "1") != "1":  # `torchrun` started this process: the stage joins the others
        return 1
    if runtime.processes is not None:
        return runtime.processes
    if runtime.device == "cpu":
        return 1
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = next((number for number in range(gpus, 1, -1) if training.divides(number)), 1)
    if count < gpus:
        say(f"{training.stage}: {count} of {gpus} GPUs are used, as a batch cannot be divided among more")
    return count


def _torchrun(count: int, command: list[str], tracking: TrackingContext | None) -> str:
    """Run a command of `soco` in `count` processes; return what it printed, the result's place."""
    label = os.environ.get(STAGE_LABEL) or command[0]
    relay = _Relay(label)
    printed: list[str] = []
    with _handing_on() as signals:
        process = subprocess.Popen(
            [sys.executable, *TORCHRUN, "--nproc-per-node", str(count), "-m", "soco_core.cli", *command],
            env=_environment(count, label, tracking),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # A terminal's Ctrl-C reaches this process, which hands it on, once.
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [_reading(process.stdout, printed.append), _reading(process.stderr, relay.take)]
        try:
            signals.process = process
            status = process.wait()
        finally:
            process.kill()  # its processes watch it, and end with it
        for reader in readers:
            reader.join(DRAIN_SECONDS)
    relay.finish()
    if status == 0:
        return "".join(printed).strip()
    if signals.first is not None or relay.stopped:
        cause = f" ({relay.cause})" if relay.cause else ""
        by = f"stopped by {signals.first.name}" if signals.first else "stopped"
        raise InterruptedStageError(relay.stopped or f"{by}{cause}; what was finished is kept. Run the same to go on")
    if relay.cause:
        raise SocoError(relay.cause)
    how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
    last = f" Its last line: {relay.last[-1].strip()}" if relay.last else ""
    raise SocoError(
        f"torchrun {how}, and its {count} processes gave no cause (killed, perhaps for want of memory); run the same "
        f"again, it goes on from the last checkpoint.{last}"
    )


def _environment(count: int, label: str, tracking: TrackingContext | None) -> dict[str, str]:
    environment = {**os.environ, STAGE_LABEL: label, LAUNCHING_STEP: str(os.getpid())}
    # Else torchrun gives each process one thread, and says so.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    if tracking is None:
        environment.pop("MLFLOW_TRACKING_URI", None)
    else:
        environment |= tracking.to_environment()
    return environment


class _Relay:
    """Shows what the processes say, but for how they ended: the step tells that.

    Args:
        label: in front of each line of the stage's own.
    """

    def __init__(self, label: str) -> None:
        self.cause = ""
        """The error that ended the training."""
        self.stopped = ""
        """What a training says that was stopped."""
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        """The last lines that are not the stage's own."""
        self._prefix = f"[{label}] "
        self._trace: list[str] = []

    def take(self, line: str) -> None:
        """Take a line, with its end."""
        text = line.removeprefix(self._prefix).rstrip()
        if not line.startswith(self._prefix):
            self._foreign(line)
        elif text.startswith("error: ") and not self.cause:
            self.cause = text.removeprefix("error: ")
            if self.cause.endswith(OF_A_BUG):
                self._show_trace()
            self.cause = self.cause.removesuffix(OF_A_BUG)
            self._trace.clear()
        elif STOPPED.match(text):
            self.stopped = text
        else:
            self._show_trace()
            self._show(line)

    def finish(self) -> None:
        """Show what was held back in case that it was an expected error's."""
        self._show_trace()

    def _foreign(self, line: str) -> None:
        if self.cause or self.stopped:  # torchrun's account of the same, with a traceback of its own
            return
        self.last.append(line)
        if self._trace or line.startswith(TRACEBACK):
            self._trace.append(line)
        else:
            self._show(line)

    def _show_trace(self) -> None:
        for line in self._trace:
            self._show(line)
        self._trace.clear()

    def _show(self, line: str) -> None:
        sys.stderr.write(line)
        sys.stderr.flush()


class _Signals:
    """SIGINT and SIGTERM, handed on to `torchrun`, which hands them on and kills after 30 s what has not ended."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str] | None:
        """Who gets them."""
        return self._process

    @process.setter
    def process(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        if self.first is not None:  # it came while the process was being started
            process.send_signal(self.first)

    def note(self, number: int, frame: object) -> None:
        """Hand the first one on; a second one ends all at once."""
        again, self.first = self.first is not None, self.first or signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if again else number)


@contextmanager
def _handing_on() -> Iterator[_Signals]:
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    former = {number: signal.signal(number, signals.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _reading(pipe: IO[str], take: Callable[[str], object]) -> threading.Thread:
    def read() -> None:
        with pipe:
            for line in pipe:
                take(line)

    thread = threading.Thread(target=read, name="training-output", daemon=True)
    thread.start()
    return thread

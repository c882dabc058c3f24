"""Trainings through their real commands, and the ways to end them in the middle."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
from safetensors.numpy import load_file

from soco_core.artifacts.metrics import read_metrics

BIN = Path(sys.executable).parent
STEPS = 12
"""Of every training here."""


def command(stage: str, sets: list[str], **options: Path | str) -> list[str]:
    overrides = [part for item in sets for part in ("--set", item)]
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [str(BIN / "soco"), stage, "--recipe", "demo", *overrides, *named]


class Training:
    """A training command in one process, or in several under `torchrun`.

    Args:
        program: the command of a stage.
        count: how many processes; one runs without `torchrun`.
        folder: where each process's output goes.
        more: options of `torchrun`.
    """

    started: ClassVar[list[psutil.Process]] = []

    def __init__(self, program: list[str], count: int, folder: Path, *more: str) -> None:
        self.count = count
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.error = self.logs / "stderr.log"
        if count > 1:
            launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(count), "--redirects", "3"]
            program = [*launcher, "--log-dir", str(self.logs), *more, *program]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.error.open("w") as error:
            self.process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=error, env=environment)
        self.started.append(psutil.Process(self.process.pid))

    def ranks(self) -> dict[int, psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}

    def said(self, attempt: int = 0) -> str:
        """What the first process said."""
        logs = list(self.logs.glob(f"*/attempt_{attempt}/0/stderr.log"))
        return (logs[0] if logs else self.error).read_text()

    def wait(self) -> int:
        return self.process.wait(timeout=300)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.01)


def kill_all(training: Training, _: random.Random) -> None:
    """As when the machine goes down."""
    processes = psutil.Process(training.process.pid).children(recursive=True)
    training.process.kill()
    for process in processes:
        if process.is_running():
            process.kill()
    training.wait()


def kill_one(training: Training, generator: random.Random) -> None:
    """As when one process is out of memory."""
    training.ranks()[generator.randrange(2)].kill()
    began = time.monotonic()
    assert training.wait() != 0
    assert time.monotonic() - began < 30


def preempt(training: Training, _: random.Random) -> None:
    """As when the cluster wants the machine back."""
    stop(training, signal.SIGTERM)


def interrupt(training: Training, _: random.Random) -> None:
    """As when someone presses Ctrl-C, which the terminal tells the whole group; here the command alone is told."""
    stop(training, signal.SIGINT)


def stop(training: Training, number: signal.Signals) -> None:
    """Ask a training to stop; see that it leaves the state after its last step, and says so."""
    training.process.send_signal(number)
    began = time.monotonic()
    status = training.wait()
    assert time.monotonic() - began < 30
    last = training.said().splitlines()[-1]
    stopped = re.fullmatch(rf"stopped by (\w+); the state after step (\d+) of {STEPS} is saved. Run the .* go on", last)
    assert stopped, training.said()
    assert list(training.logs.parent.glob(f"runs/*/*/checkpoints/step-{int(stopped[2]):08d}.pt"))
    # `torchrun` has a status of its own, and its children the command's.
    assert status == (130 if training.count == 1 else 1)
    assert training.count > 1 or stopped[1] == number.name


KILLS: dict[str, Callable[[Training, random.Random], None]] = {
    "kill_all": kill_all,
    "kill_one": kill_one,
    "preempt": preempt,
    "interrupt": interrupt,
}


@contextmanager
def apart() -> Iterator[None]:
    """Let what starts in this block heed SIGINT, and leave nothing of it behind.

    A shell that starts the tests in its background lets them, and all that they start, ignore that signal.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        for process in Training.started:
            with suppress(psutil.NoSuchProcess):
                for each in [*process.children(recursive=True), process]:
                    each.kill()
        Training.started.clear()


def lines(folder: Path) -> int:
    return max((len(read_metrics(path)) for path in folder.glob("runs/*/*/metrics.jsonl")), default=0)


def result(folder: Path) -> Path:
    (done,) = folder.glob("runs/*/*/done.json")
    return done.parent


def same_tensors(one: Path, other: Path) -> bool:
    """Compare to the last bit; the order of a header's entries is not fixed."""
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)

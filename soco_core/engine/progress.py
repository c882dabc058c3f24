"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import Self

from soco_core.console import say

PLAIN_INTERVAL_SECONDS = 5.0


class Progress:
    """Shows how far a stage is, and for how long it will go on.

    Args:
        label: what is being done, such as ``pretrain``.
        total: number of steps of the whole work.
        start: steps that an earlier attempt already did; they do not count for the estimate.
        unit: what a step is.
    """

    def __init__(self, label: str, total: int, start: int = 0, unit: str = "it") -> None:
        self.label = label
        self.total = total
        self.start = start
        self.done = start
        self.unit = unit
        self._began = time.monotonic()
        self._printed = -math.inf
        self._told = -1
        self._note = ""
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total, completed=start, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps; `note` (a loss, say) is shown behind them."""
        self.done += steps
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_SECONDS:
            self._print()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done != self._told:
            self._print()

    def _print(self) -> None:
        self._printed, self._told = time.monotonic(), self.done
        elapsed = self._printed - self._began
        rate = (self.done - self.start) / elapsed if elapsed > 0 else 0.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        note = f" | {self._note}" if self._note else ""
        say(f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s{left}{note}")


def duration(seconds: float) -> str:
    """Return a duration for people: ``45 s``, ``3 min 05 s``, ``27 h 46 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

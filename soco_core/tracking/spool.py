"""What MLflow has not got yet of one stage's run, in memory and in a hidden file of the result directory.

The file holds JSON lines: how the run opens, points as they come, how it ends. It outlives its process, and is gone
once all is delivered. A point that was delivered just before a process died is delivered again, with the same step
and time, which MLflow takes for the same point.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from soco_core.storage import write_text

MOST_POINTS = 10_000
"""Points kept at most; of more, every second one is left out, old and new, so that a curve keeps its whole length."""

Point = tuple[int, int, dict[str, float]]
"""Step, time in milliseconds since 1970, the metrics."""


class Spool:
    """The points and the end of a run that wait for delivery; threads may use it together.

    A disk that cannot be written is tolerated: memory then holds all until :meth:`keep` succeeds.

    Args:
        folder: the result directory.
        place: names the store and the parent run; no password in it.
    """

    def __init__(self, folder: Path, place: str) -> None:
        self.path = folder / f".mlflow-{hashlib.sha256(place.encode()).hexdigest()[:8]}.jsonl"
        self.opening: dict[str, Any] | None = None
        """Name, tags and recipe of the run; None if nothing waits."""
        self.end: dict[str, Any] | None = None
        """Status, time and summary of the run; None while it goes on."""
        self._points: deque[Point] = deque()
        self._sending: list[Point] = []
        self._came = 0
        self._every = 1
        """Of the points that come, every how manyth is kept; doubled each time that there are too many."""
        self._file: BinaryIO | None = None
        self._complete = False
        """Whether the file holds all that memory does."""
        self._lock = threading.Lock()
        self._load()

    def open(self, name: str, tags: dict[str, str], recipe: str) -> None:
        """Begin a run, or go on with one whose points wait; nothing is delivered yet."""
        with self._lock:
            self.opening, self.end = {"name": name, "tags": tags, "recipe": recipe}, None
            self._rewrite()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Add a point, as of now."""
        point = (step, _now(), metrics)
        with self._lock:
            self._came += 1
            if self._came % self._every:
                return
            self._points.append(point)
            self._append({"point": point})
            if len(self._points) > MOST_POINTS:
                self._points = deque(list(self._points)[::2])
                self._every *= 2
                self._complete = False

    def close(self, status: str, summary: dict[str, Any]) -> None:
        """Note how the run ended."""
        with self._lock:
            self.end = {"status": status, "time": _now(), "summary": summary}
            self._append({"end": self.end})

    def take(self, count: int) -> list[Point]:
        """Take the oldest points to send them; :meth:`sent` or :meth:`give_back` follows."""
        with self._lock:
            self._sending = [self._points.popleft() for _ in range(min(count, len(self._points)))]
            return self._sending

    def sent(self) -> None:
        """Forget what was taken: it is delivered."""
        with self._lock:
            self._sending = []
            if not self._points:
                self._every = 1
                if self._complete:
                    self._cut()

    def give_back(self) -> None:
        """Keep what was taken, for another time."""
        with self._lock:
            self._points.extendleft(reversed(self._sending))
            self._sending = []

    def keep(self) -> bool:
        """Write to the file what an error kept from it; tell whether it holds everything now."""
        with self._lock:
            if not self._complete:
                self._rewrite()
            return self._complete

    def remove(self) -> None:
        """Everything is delivered."""
        with self._lock, suppress(OSError):
            self._close_file()
            self.path.unlink(missing_ok=True)

    def _load(self) -> None:
        with suppress(OSError):
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError):  # a line that was cut short
                    self._take_line(json.loads(line))

    def _take_line(self, line: dict[str, Any]) -> None:
        if "opening" in line:
            self.opening = {key: line["opening"][key] for key in ("name", "tags", "recipe")}
        elif "end" in line:
            self.end = {key: line["end"][key] for key in ("status", "time", "summary")}
        else:
            step, when, metrics = line["point"]
            self._points.append((int(step), int(when), {key: float(value) for key, value in metrics.items()}))

    def _append(self, line: dict[str, Any]) -> None:
        data = _line(line)
        try:
            self._complete = self._complete and self._file is not None and self._file.write(data) == len(data)
        except OSError:
            self._complete = False

    def _rewrite(self) -> None:
        lines: list[dict[str, Any]] = [{"opening": self.opening}] if self.opening is not None else []
        lines += [{"point": point} for point in (*self._sending, *self._points)]
        lines += [{"end": self.end}] if self.end is not None else []
        self._complete = False
        with suppress(OSError):
            self._close_file()
            write_text(self.path, b"".join(map(_line, lines)).decode())
            self._file = self.path.open("ab", buffering=0)
            self._complete = True

    def _cut(self) -> None:
        """Leave only the opening and the end: without a rewrite, because a training step may wait for the lock."""
        try:
            assert self._file is not None
            self._file.truncate(len(_line({"opening": self.opening})))
        except OSError:
            self._complete = False
        else:
            if self.end is not None:
                self._append({"end": self.end})

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _now() -> int:
    return int(time.time() * 1000)

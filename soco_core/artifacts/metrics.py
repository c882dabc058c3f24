"""``metrics.jsonl``: one line of plain JSON for each training step."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from soco_core.storage import atomic_file


class MetricsWriter:
    """Appends a line per step; what an interrupted attempt wrote beyond its checkpoint is cut off.

    A line that cannot be written (the disk is full) waits in memory, and goes before the next one.

    Args:
        path: the file.
        finished_steps: steps that the checkpoint to go on from has done; later lines are dropped,
            because these steps run again.
    """

    def __init__(self, path: Path, finished_steps: int) -> None:
        self.path = path
        self.trouble: OSError | None = None
        """Why lines wait in memory; None if none does."""
        kept = [entry for entry in read_metrics(path) if entry["step"] < finished_steps]
        with atomic_file(path, "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept)
        self._waiting: list[bytes] = []
        self._file = path.open("ab", buffering=0)
        self._whole = path.stat().st_size

    def __enter__(self) -> Self:
        return self

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one step (counted from 0)."""
        self._waiting.append(json.dumps({"step": step, **values}).encode() + b"\n")
        self._bring()

    def keep(self) -> bool:
        """Bring all lines to the disk, before a checkpoint that they belong to; tell whether they are there."""
        self._bring()
        if self.trouble is None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self.trouble = error
        return self.trouble is None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bring()
        self._file.close()

    def _bring(self) -> None:
        data = b"".join(self._waiting)
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError as error:
            self.trouble = error
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self._whole)  # the file ends with a whole line
            return
        self.trouble = None
        self._whole += len(data)
        self._waiting.clear()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that a crash cut short is left out."""
    entries: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                break
    return entries

"""``metrics.jsonl``: one line of plain JSON for each training step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from soco_core.storage import atomic_file

if TYPE_CHECKING:
    from soco_core.artifacts.result import ResultDirectory


class MetricsWriter:
    """Appends a line per step; what an interrupted attempt wrote beyond its checkpoint is cut off.

    Args:
        path: the file.
        finished_steps: steps that the checkpoint to go on from has done; later lines are dropped,
            because these steps run again.
    """

    def __init__(self, path: Path, finished_steps: int) -> None:
        kept = [entry for entry in read_metrics(path) if entry["step"] < finished_steps]
        with atomic_file(path, "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one step (counted from 0)."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def keep(self, result: ResultDirectory) -> None:
        """Bring the lines to disk, and to where users find them; called before their checkpoint is written."""
        os.fsync(self._file.fileno())
        result.publish(Path(self._file.name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


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

"""Checkpoints: atomic, of plain types and tensors only, with a `latest` pointer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.console import say
from soco_core.errors import InputError
from soco_core.storage import atomic_file, write_text

if TYPE_CHECKING:
    from soco_core.artifacts.result import ResultDirectory

LATEST = "latest"


class Checkpointer:
    """Saves and finds the checkpoints of one training.

    Args:
        result: the result directory; checkpoints lie in its folder ``checkpoints``.
        keep: how many checkpoints to keep, newest first.
    """

    def __init__(self, result: ResultDirectory, keep: int) -> None:
        self.result = result
        self.folder = result.path / "checkpoints"
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` finished steps; `latest` moves only once the file is whole."""
        import torch

        path = self.folder / f"step-{step:08d}.pt"
        with atomic_file(path) as file:
            torch.save({"step": step, **state}, file)
        self.result.publish(path)
        write_text(self.folder / LATEST, path.name)
        self.result.publish(self.folder / LATEST)
        self.result.unpublish(*self._all()[self.keep :])
        return path

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read, or None; each damaged one is named."""
        for path in self._all():
            try:
                return load_checkpoint(path)
            except InputError as error:
                say(f"warning: {error}; trying the one before it")
        return None

    def _all(self) -> list[Path]:
        """Checkpoints, newest first; the pointer decides which is newest, the step orders the others."""
        found = sorted(self.folder.glob("step-*.pt"), reverse=True)
        pointer = self.folder / LATEST
        if pointer.exists():
            latest = self.folder / pointer.read_text().strip()
            found.sort(key=lambda path: path != latest)
        return found


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain types.
    """
    import torch

    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({cause})") from error

"""Checkpoints: atomic, of plain types and tensors only, with a `latest` pointer."""

from __future__ import annotations

import re
import zipfile
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.console import say
from soco_core.errors import InputError
from soco_core.storage import atomic_file, write_text

if TYPE_CHECKING:
    from soco_core.artifacts.result import ResultDirectory

LATEST = "latest"
NAME = re.compile(r"step-(\d+)\.pt")


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
            torch.save({**state, "step": step}, file)
        self.result.publish(path)
        write_text(self.folder / LATEST, path.name)
        self.result.publish(self.folder / LATEST)
        # A later step than this one is of an attempt that fell back behind it, and will be done again.
        beyond = [other for other in self._all() if _step(other) > step]
        self.result.unpublish(*beyond)
        self.result.unpublish(*self._all()[self.keep :])
        return path

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read, or None; each damaged one is named."""
        found = self._all()
        for path, before in zip_longest(found, found[1:]):
            try:
                return load_checkpoint(path)
            except InputError as error:
                say(f"warning: {error}; " + (f"trying {before.name}" if before else "starting from the beginning"))
        return None

    def _all(self) -> list[Path]:
        """Checkpoints, newest first; the pointer decides which is newest, the step orders the others."""
        found = sorted((path for path in self.folder.glob("step-*.pt") if NAME.fullmatch(path.name)), key=_step)
        found.reverse()
        pointer = self.folder / LATEST
        if pointer.exists():
            latest = pointer.read_text(encoding="utf-8", errors="replace").strip()
            found.sort(key=lambda path: path.name != latest)
        return found


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it; tensors come to the CPU.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain types.
    """
    import torch

    try:
        # torch does not look at the checksums that it writes: a flipped bit would become a weight.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise InputError(f"{path}: not a readable checkpoint (its checksum of {damaged} does not fit)")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise InputError(f"{path}: not a readable checkpoint ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    refused = re.search(r"unsupported GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, which is neither a tensor nor a plain type"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if "Weights only load failed" in str(error):  # torch goes on to advise loading it without this protection
        return "cut short, or not written by torch.save"
    return next(iter(str(error).splitlines()), "") or type(error).__name__

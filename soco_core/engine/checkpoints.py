"""The checkpoints of one training: written while it goes on, kept by a policy, and found again."""

from __future__ import annotations

import re
import threading
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.console import say
from soco_core.engine.checkpoint_file import copy_to_cpu, disk_trouble, load_checkpoint, write_checkpoint
from soco_core.engine.uploads import Uploads
from soco_core.errors import InputError
from soco_core.storage import TEMPORARY_SUFFIX, write_text

if TYPE_CHECKING:
    from soco_core.artifacts.result import ResultDirectory

FORMAT = 1
"""Of a checkpoint; raised when what it holds is read in another way."""
LATEST = "latest"
NAME = re.compile(r"step-(\d+)\.pt")


class Checkpointer:
    """Saves and finds the checkpoints of one training.

    They are written by a thread of their own, one at a time: a copy of the state in main memory is what that costs.

    Args:
        result: the result directory; checkpoints lie in its folder ``checkpoints``.
        keep: how many checkpoints to keep, newest first.
        keep_every: those of every so many steps are kept for good besides; 0: none.
    """

    def __init__(self, result: ResultDirectory, keep: int, keep_every: int = 0) -> None:
        self.result = result
        self.folder = result.path / "checkpoints"
        self.keep, self.keep_every = keep, keep_every
        self.uploads = Uploads(result)
        self.saved: int | None = None
        """Steps of the newest checkpoint that is whole on the local disk."""
        self.trouble: OSError | None = None
        """Why the last one could not be written; None if it was."""
        self.failure: Exception | None = None
        """What ends the training, since it would happen again."""
        self._writer: threading.Thread | None = None

    def save(self, step: int, state: dict[str, Any], *journals: Path) -> None:
        """Begin to write the state after `step` finished steps, once the one before is written.

        Args:
            step: how many steps are finished.
            state: plain types, containers and tensors; they may change as soon as this returns.
            journals: files that are whole up to this step, to be published before the checkpoint is.
        """
        self.wait()
        if self.saved == step or self.failure is not None:
            return
        marks = {"format": FORMAT, "result": self.result.fingerprint, "step": step}
        copied = {**copy_to_cpu(state), **marks}
        self._writer = threading.Thread(target=self._write, args=(step, copied, journals), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is on the local disk, or has failed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read, or None; each damaged one is named.

        Raises:
            InputError: the newest one that can be read is of another result, or of another format.
            SocoError: the disk does not let one be read now.
        """
        for leftover in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):  # of a killed writer; nobody else writes here
            leftover.unlink(missing_ok=True)
        found = self._all()
        for path, before in zip_longest(found, found[1:]):
            try:
                state = load_checkpoint(path)
            except InputError as error:
                say(f"warning: {error}; " + (f"trying {before.name}" if before else "starting from the beginning"))
                continue
            self._check(path, state)
            self.saved = state["step"]
            return state
        return None

    def send_newest(self, *journals: Path) -> None:
        """Begin to send the checkpoint that is gone on from to the store, if an earlier attempt could not.

        Args:
            journals: as of :meth:`save`.
        """
        if self.saved is None:
            return
        path = self._path(self.saved)
        if not self.result.is_published(path):
            write_text(self.folder / LATEST, path.name)  # what was fetched may be of an earlier one
            self.uploads.add(journals, [path, self.folder / LATEST], [])

    def _check(self, path: Path, state: dict[str, Any]) -> None:
        found, result = state.get("format"), state.get("result")
        if found != FORMAT:
            newer = isinstance(found, int) and found > FORMAT
            raise InputError(
                f"{path}: a checkpoint of format {found}, and this soco reads {FORMAT}; go on with the "
                f"{'newer' if newer else 'older'} soco that wrote it, or delete {self.folder} to begin anew"
            )
        if result != self.result.fingerprint:
            raise InputError(
                f"{path}: a checkpoint of another result ({result}, this one is {self.result.fingerprint}), with "
                f"another recipe or other inputs; move it back there, or delete {self.folder} to begin anew"
            )

    def _write(self, step: int, state: dict[str, Any], journals: tuple[Path, ...]) -> None:
        path = self._path(step)
        try:
            write_checkpoint(path, state)
            write_text(self.folder / LATEST, path.name)
            self.saved = step
            self.trouble = None
            removed = [other for other in self._all() if self._is_over(other, step)]
            # First: one that cannot be removed here must not keep the new one from the store.
            self.uploads.add(journals, [path, self.folder / LATEST], removed)
            for other in removed:
                other.unlink(missing_ok=True)
        except Exception as error:
            self.trouble = disk_trouble(error)
            self.failure = error if self.trouble is None else None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _is_over(self, path: Path, step: int) -> bool:
        number = _step(path)
        # A later step than this one is of an attempt that fell back behind it, and will be done again.
        if number > step:
            return True
        for_good = self.keep_every and number and number % self.keep_every == 0
        newest = [_step(other) for other in self._all() if _step(other) <= step][: self.keep]
        return number not in newest and not for_good

    def _all(self) -> list[Path]:
        """Checkpoints, newest first."""
        found = (path for path in self.folder.glob("step-*.pt") if NAME.fullmatch(path.name))
        return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])

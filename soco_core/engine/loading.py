"""Waiting for the next batch without becoming deaf: a store of images may hang, and a signal must be answered."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

from soco_core.errors import SocoError

if TYPE_CHECKING:
    import torch

B = TypeVar("B")

SLICE_SECONDS = 0.5
"""How often it is looked whether to stop while a batch is waited for."""
CLOSE_SECONDS = 5.0
"""How long a loader that may hang is waited for at its end."""
WORD_SECONDS = 1.0
"""How long torch may need to say that a worker is gone, after the first sign of it."""
KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal|exited unexpectedly)")
"""How torch says that a worker is gone."""


class _Loaded(NamedTuple, Generic[B]):
    batch: list[B]
    """One; none if it could not be loaded."""
    error: BaseException | None


class Loading(Generic[B]):
    """Batches that a thread of its own takes from their source, each when it is asked for.

    Args:
        batches: the source; only the thread touches it, and closes it.
        device: where the batches go; the thread pins memory for that GPU and no other.
    """

    def __init__(self, batches: Generator[B, None, None], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._loaded: SimpleQueue[_Loaded[B]] = SimpleQueue()
        # Workers end with the thread that forked them, so it lives as long as they are needed; one that hangs must not
        # keep the program.
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def next(self, stopping: Callable[[], bool]) -> B | None:
        """Return the next batch, or None if it had not come when `stopping` said so; nothing is loaded after that.

        Raises:
            Exception: whatever the source raises; SocoError if one of its processes was killed.
        """
        # All of it: where torch has loaded in this thread before, it tells by a signal to it that a process was killed.
        with killed_loaders():
            return self._wait(stopping)

    def _wait(self, stopping: Callable[[], bool]) -> B | None:
        self._asked.put(True)
        while True:
            try:
                batch, error = self._loaded.get(timeout=SLICE_SECONDS)
            except Empty:
                if stopping():
                    return None
                continue
            if error is not None:
                raise error
            return batch[0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.put(False)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while self._asked.get():
            try:
                if self._device.type == "cuda":
                    import torch

                    torch.cuda.set_device(self._device)
                loaded = _Loaded([next(self._batches)], None)
            except BaseException as error:
                loaded = _Loaded([], error)
            self._loaded.put(loaded)
            del loaded
        self._batches.close()


@contextmanager
def killed_loaders() -> Iterator[None]:
    """Say in one line, with the remedy, that a process which loads images was killed.

    Raises:
        SocoError: so it was.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        explained = killed_loader(error)
        if explained is None and not isinstance(error, RuntimeError):
            explained = _await_word(error)
        if explained is None:
            raise
        raise explained from error


def killed_loader(error: BaseException) -> SocoError | None:
    """Return the one line for torch's word that a process of a loader was killed, None for any other error.

    Where the loader is used in the main thread, torch raises it wherever that happens to be.
    """
    killed = KILLED.search(str(error)) if isinstance(error, RuntimeError) else None
    if killed is None:
        return None
    return _explain(
        f" (pid {killed[1]})", " It is out of shared memory (/dev/shm)." if "Bus error" in str(error) else ""
    )


def _explain(which: str, shared: str) -> SocoError:
    return SocoError(
        f"a process that loads images{which} was killed, mostly since memory ran out.{shared} Lower runtime.workers, "
        "or give more memory (to a container more shared memory, /dev/shm, too), and run the same command again: it "
        "goes on from the last checkpoint"
    )


def _await_word(error: BaseException) -> SocoError | None:
    """Explain an error that was met because another process was gone a moment before; None if it was not.

    Torch says so by a signal to the main thread, at any time: here it is waited for, so that it does not come in the
    middle of what the program does at its end.
    """
    try:
        if not _met_between_processes(error):
            return None
        time.sleep(WORD_SECONDS)
    except RuntimeError as word:
        explained = killed_loader(word)
        if explained is None:
            raise
        return explained
    return _explain("", "")


def _met_between_processes(error: BaseException) -> bool:
    """Tell whether an error was met in fetching what another process has ready."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parent.name == "multiprocessing" for frame in frames)

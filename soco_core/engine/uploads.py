"""What a training sends to its S3 store, in the background: a store that is away does not hold it up."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from soco_core import storage
from soco_core.errors import ResultLockedError, SocoError

if TYPE_CHECKING:
    from soco_core.artifacts.result import ResultDirectory

RETRY_SECONDS = 30.0


class Uploads:
    """Publishes files in order, again and again until the store has them; nothing to do on a file system.

    Args:
        result: the result directory that the files are of.
    """

    def __init__(self, result: ResultDirectory) -> None:
        self.result = result
        self.trouble: Exception | None = None
        """Why the store could not be written the last time; None if it was."""
        self.failure: Exception | None = None
        """What ends the training: another process took the lock."""
        self._publish: dict[Path, int] = {}
        self._remove: set[Path] = set()
        self._number = 0
        self._rounds = 0
        self._busy = self._asked = self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, journals: Iterable[Path], files: Iterable[Path], removed: Iterable[Path]) -> None:
        """Publish journals, then files; afterwards remove from the store what is no longer here."""
        if not storage.is_s3(self.result.uri):
            return
        with self._changed:
            for path in removed:
                self._publish.pop(path, None)
                self._remove.add(path)
            for path in journals:  # one that already waits keeps its place, before the files that need it
                self._publish[path] = self._next_number()
            for path in files:
                self._publish.pop(path, None)
                self._publish[path] = self._next_number()
                self._remove.discard(path)
            self._ask()

    @property
    def waiting(self) -> bool:
        """Whether the store lacks something."""
        return bool(self._publish)

    def settle(self, seconds: float | None = None) -> None:
        """Wait until the store has everything or could not be written once more, at most so many seconds."""
        with self._changed:
            if self._thread is None or not (self._busy or self._publish or self._remove):
                return
            last = self._rounds + (2 if self._busy else 1)
            self._ask()
            self._changed.wait_for(lambda: self._idle or self._rounds >= last or self.failure, seconds)

    def close(self) -> None:
        """Begin no upload any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _idle(self) -> bool:
        return not self._busy and not self._publish and not self._remove

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _ask(self) -> None:
        self._asked = True
        if self._thread is None and not self._closed:
            # It ends with the program, whatever a store that does not answer is still asked.
            self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                pause = None if self._idle else RETRY_SECONDS
                self._changed.wait_for(lambda: self._asked or self._closed, pause)
                if self._closed or self.failure is not None:
                    return
                self._asked, self._busy = False, True
            trouble: Exception | None = None
            failure: Exception | None = None
            try:
                self._send()
            except ResultLockedError as error:
                failure = error
            except (SocoError, OSError) as error:
                trouble = error
            except Exception as error:
                failure = error
            with self._changed:
                self.trouble, self.failure = trouble, failure
                self._busy = False
                self._rounds += 1
                self._changed.notify_all()

    def _send(self) -> None:
        while (first := self._first()) is not None:
            path, number = first
            try:
                if path.exists():
                    self.result.publish(path)
            except (SocoError, OSError):
                if path in self._publish:  # else it was removed meanwhile
                    raise
            with self._changed:
                if self._publish.get(path) == number:
                    del self._publish[path]
        while (gone := self._removable()) is not None:
            storage.delete(storage.join(self.result.uri, gone.relative_to(self.result.path).as_posix()))
            with self._changed:
                self._remove.discard(gone)

    def _removable(self) -> Path | None:
        with self._changed:
            return None if self._publish or self._closed else next(iter(self._remove), None)

    def _first(self) -> tuple[Path, int] | None:
        with self._changed:
            return None if self._closed else next(iter(self._publish.items()), None)

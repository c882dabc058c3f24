"""The file of boxes as a stream of bytes, from a disk or in large pieces from S3."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from soco_core import storage
from soco_core.engine.progress import Progress
from soco_core.errors import InputError

PIECE_BYTES = 16 << 20
"""How much is read at once."""
QUIET_BYTES = 200_000_000
"""Files up to this size are read without showing progress."""


@contextmanager
def open_boxes(source: str, quiet: bool = False) -> Iterator[io.BufferedReader]:
    """Open a file of boxes for reading once, from its beginning to its end.

    Args:
        source: path or S3 URI.
        quiet: show no progress, however large the file is.

    Raises:
        InputError: there is no such object, or the store failed.
        OSError: a local file cannot be read.
    """
    with nullcontext() if storage.is_s3(source) else Path(source).open("rb") as local:
        if local is not None:
            size = Path(source).stat().st_size
        else:
            described = storage.describe(source)
            if described is None:
                raise InputError(f"{source}: there is no such object; give the JSON file of the boxes")
            size = described[0]

        def read(offset: int, count: int) -> bytes:
            if local is not None:
                return local.read(count)
            return storage.read_range(source, offset, count)[0] if offset < size else b""

        with nullcontext() if quiet or size <= QUIET_BYTES else Progress("boxes", size >> 20, unit="MB") as progress:
            yield io.BufferedReader(_Pieces(read, progress), PIECE_BYTES)


class _Pieces(io.RawIOBase):
    """A file made of a function that returns up to so many bytes from an offset on, and none at the end."""

    def __init__(self, read: Callable[[int, int], bytes], progress: Progress | None) -> None:
        self._read = read
        self._progress = progress
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._read(self._offset, len(buffer))
        buffer[: len(piece)] = piece
        before, self._offset = self._offset, self._offset + len(piece)
        if self._progress is not None:
            self._progress.advance((self._offset >> 20) - (before >> 20))
        return len(piece)

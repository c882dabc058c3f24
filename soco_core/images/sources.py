"""Where the bytes of images lie: a folder tree or an S3 prefix. A pack is in ``soco_core.images.pack_source``.

A source knows no list of its images, so it is small: it is pickled to worker processes, and each of
them opens what it needs when it reads first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from soco_core import storage
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError

FILE_AT_FAULT = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors that say something of a file; any other says that the file system failed."""


class ImageSource(Protocol):
    """Reads the files of an image set by their ids."""

    @property
    def root(self) -> str:
        """Absolute local path or S3 URI, as shown to users and stored in results."""

    @property
    def remote(self) -> bool:
        """Whether reading an image is a request over the network."""

    def read_bytes(self, image_id: str) -> bytes:
        """Return the file of an image, unchanged; over the network that is one request.

        Raises:
            BadImageError: there is no such file, or it cannot be opened.
            InputError: the store or the file system failed, which says nothing of the file.
        """


@dataclass(frozen=True)
class FolderSource:
    """A local folder tree; an id is a path relative to it."""

    root: str
    remote = False

    def read_bytes(self, image_id: str) -> bytes:
        """See :meth:`ImageSource.read_bytes`."""
        path = Path(self.root, image_id)
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno in FILE_AT_FAULT:
                raise BadImageError(f"cannot be opened: {error.strerror}") from error
            raise file_system_failed(path, error) from error


@dataclass(frozen=True)
class S3Source:
    """The objects below an S3 prefix; an id is a key relative to it."""

    root: str
    remote = True

    def read_bytes(self, image_id: str) -> bytes:
        """See :meth:`ImageSource.read_bytes`."""
        try:
            return storage.read_bytes(storage.join(self.root, image_id))
        except storage.MissingObjectError as error:
            raise BadImageError("cannot be opened: no such object") from error


def file_system_failed(path: Path, error: OSError) -> InputError:
    """Return the error for a file system that does not let a file be read, whatever is in it."""
    return InputError(f"cannot read {path}: {error.strerror}; run this again once it can be read")


def read_each(source: ImageSource, ids: Iterable[str]) -> Iterator[tuple[str, bytes | BadImageError]]:
    """Yield (id, file or why it cannot be opened) in the order of `ids`; several requests at a time if it is remote.

    Raises:
        InputError: the store or the file system failed.
    """

    def read(image_id: str) -> tuple[str, bytes | BadImageError]:
        try:
            return image_id, source.read_bytes(image_id)
        except BadImageError as error:
            return image_id, error

    if not source.remote:
        yield from map(read, ids)
        return
    storage.s3_client()  # boto3 makes clients in one thread only
    waiting = iter(ids)
    pool = ThreadPoolExecutor(storage.S3_CONNECTIONS, "read-ahead")
    try:
        running = [pool.submit(read, image_id) for image_id in islice(waiting, storage.S3_CONNECTIONS)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(read, image_id) for image_id in islice(waiting, 1)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

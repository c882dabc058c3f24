"""Where the bytes of images lie: a folder tree or an S3 prefix. A pack is in ``soco_core.images.pack_source``.

A source knows no list of its images, so it is small: it is pickled to worker processes, and each of
them opens what it needs when it reads first.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

from soco_core import storage
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError
from soco_core.store_errors import MissingObjectError

Mode = Literal["contents", "sizes"]

FILE_AT_FAULT = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors that say something of a file; any other says that the file system failed."""


class MissingImageError(BadImageError):
    """There is no such file."""


class ChangedImageError(InputError):
    """A file is not the one that was listed."""


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
            BadImageError: there is no such file (then it is a MissingImageError), or it cannot be opened.
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
                missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
                raise (MissingImageError if missing else BadImageError)(
                    f"cannot be opened: {error.strerror}"
                ) from error
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
        except MissingObjectError as error:
            raise MissingImageError("cannot be opened: no such object") from error


@dataclass(frozen=True)
class ListedSource:
    """Files that must be what they were when they were listed: their fingerprint stands for what is read."""

    source: ImageSource
    """Reads them."""
    mode: Mode
    """What an identity is: ``sizes`` the size in bytes, ``contents`` the SHA-256 in hexadecimal."""
    identities: Mapping[str, str | None]
    """The identity of each file; None if it could not be opened when it was listed."""

    @property
    def root(self) -> str:
        """See :class:`ImageSource`."""
        return self.source.root

    @property
    def remote(self) -> bool:
        """See :class:`ImageSource`."""
        return self.source.remote

    def read_bytes(self, image_id: str) -> bytes:
        """See :meth:`ImageSource.read_bytes`.

        Raises:
            ChangedImageError: the file is not the one that was listed, or is gone.
        """
        listed = self.identities[image_id]
        try:
            data = self.source.read_bytes(image_id)
        except BadImageError as error:
            # A file that may not be read has a size nevertheless.
            if listed is None or (self.mode == "sizes" and not isinstance(error, MissingImageError)):
                raise
            raise self._changed(image_id, str(error)) from error
        if listed is None:
            raise self._changed(image_id, "it could not be opened then")
        if (str(len(data)) if self.mode == "sizes" else hashlib.sha256(data).hexdigest()) != listed:
            was = f"{listed} bytes then, {len(data)} now" if self.mode == "sizes" else "its SHA-256 is another"
            raise self._changed(image_id, was)
        return data

    def part(self, ids: Iterable[str]) -> dict[str, str | None]:
        """Return the identities of some images."""
        return {image_id: self.identities[image_id] for image_id in ids}

    def _changed(self, image_id: str, how: str) -> ChangedImageError:
        return ChangedImageError(
            f"{storage.join(self.root, image_id)} changed since it was listed ({how}); run the same command again once "
            "the images stay as they are (with a plan: plan again first)"
        )


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

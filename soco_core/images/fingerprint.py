"""The fingerprint of an image set: the same wherever the same files lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from pathlib import Path

from soco_core import storage
from soco_core.artifacts.fingerprint import FINGERPRINT_LENGTH, file_sha256
from soco_core.engine.progress import Progress
from soco_core.images.decode import BadImageError
from soco_core.images.pack_source import PackSource
from soco_core.images.sources import FILE_AT_FAULT, ImageSource, Mode, file_system_failed, read_each

QUIET_IMAGES = 5000
"""Sets up to this size are hashed without showing progress."""
UNREADABLE = "cannot be opened"


def source_fingerprint(
    source: ImageSource, ids: Iterable[str], mode: Mode, sizes: Mapping[str, int] | None = None
) -> str:
    """Return 16 hexadecimal digits that name files by their ids and contents.

    They are the same for a folder, an S3 prefix and a pack that hold the same. A pack's index knows all
    that is needed; elsewhere ``contents`` reads every file, ``sizes`` asks a file system for each file, and S3
    for one listing.

    Args:
        source: where the files lie.
        ids: in the order that counts.
        mode: ``contents`` hashes names and contents of all files, ``sizes`` names and sizes only.
        sizes: what a listing of the source has already said, in bytes.

    Raises:
        InputError: the store or the file system failed.
    """
    ids = ids if isinstance(ids, Sized) else tuple(ids)
    return digest_of(zip(ids, file_identities(source, ids, mode, sizes), strict=True), mode, progress_of(len(ids)))


def digest_of(identities: Iterable[tuple[str, str | None]], mode: Mode, progress: Progress | None = None) -> str:
    """Return the fingerprint of (id, SHA-256 in hexadecimal or size; None if the file cannot be opened)."""
    digest = hashlib.sha256(mode.encode())
    with progress or nullcontext():
        for image_id, identity in identities:
            digest.update(f"\n{image_id}\0{UNREADABLE if identity is None else identity}".encode())
            if progress is not None:
                progress.advance()
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def progress_of(count: int) -> Progress | None:
    """Return what shows the hashing of so many files; None: it is too short."""
    return Progress("image set", count, unit="images") if count > QUIET_IMAGES else None


def file_identities(
    source: ImageSource, ids: Iterable[str], mode: Mode, sizes: Mapping[str, int] | None = None
) -> Iterator[str | None]:
    """Yield what :func:`source_fingerprint` hashes of each file: SHA-256 or size; None: it cannot be opened."""
    if isinstance(source, PackSource):
        yield from source.identities(ids, mode)
    elif source.remote and mode == "sizes":
        listed = dict(storage.list_objects(source.root)) if sizes is None else sizes
        for image_id in ids:
            yield str(listed[image_id]) if image_id in listed else None
    elif source.remote:
        for _, data in read_each(source, ids):
            yield None if isinstance(data, BadImageError) else hashlib.sha256(data).hexdigest()
    else:
        for image_id in ids:
            yield _local_identity(Path(source.root, image_id), mode)


def _local_identity(path: Path, mode: Mode) -> str | None:
    try:
        return file_sha256(path) if mode == "contents" else str(path.stat().st_size)
    except OSError as error:
        if error.errno in FILE_AT_FAULT:
            return None
        raise file_system_failed(path, error) from error

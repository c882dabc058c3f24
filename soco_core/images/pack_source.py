"""A pack (`soco pack`): images in tar files, with an index that says where each one lies."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from soco_core import storage
from soco_core.artifacts.fingerprint import file_sha256
from soco_core.errors import InputError
from soco_core.images.pack_index import INDEX, PackIndex, Place
from soco_core.images.sources import MissingImageError, file_system_failed
from soco_core.store_errors import MissingObjectError

PACK = "pack.json"
KIND = "soco-pack"
CONTRACT = 1
MOST_OPEN_FILES = 256
"""Tars that a process keeps open; the ones beyond are opened for each image."""

_TAR = re.compile(r"images-\d{5,}\.tar")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Descriptors(dict[int, int]):
    """The local tars that are open, by their number; they are closed when their pack is no longer used."""

    def __del__(self) -> None:
        for descriptor in self.values():
            os.close(descriptor)


@dataclass(frozen=True)
class PackSource:
    """The images of a pack; see :class:`soco_core.images.sources.ImageSource`."""

    root: str
    index_file: Path
    """The index on this machine."""
    shards: tuple[tuple[str, int], ...]
    """File name and size in bytes of each tar."""
    _files: _Descriptors = field(default_factory=_Descriptors, repr=False, compare=False)

    @property
    def remote(self) -> bool:
        """Whether the pack lies on S3."""
        return storage.is_s3(self.root)

    @cached_property
    def index(self) -> PackIndex:
        """The index, mapped when it is first needed."""
        return PackIndex(self.index_file)

    def read_bytes(self, image_id: str) -> bytes:
        """Return the file of an image: one read of a local tar, one range of one on S3 (none for an empty file).

        Raises:
            BadImageError: the pack has no such image.
            InputError: a tar is missing or not what it was, the image in it has not the SHA-256 that the index says, or
                the store or the file system failed.
        """
        row = self.index.find(image_id)
        if row is None:
            raise MissingImageError("cannot be opened: not in the pack")
        place = self.index.place(row)
        if not place.size:
            return b""
        if not 0 <= place.shard < len(self.shards):
            raise self._not_as_packed(INDEX)
        name, whole = self.shards[place.shard]
        if not 0 <= place.offset <= place.offset + place.size <= whole:  # before memory is taken for it
            raise self._not_as_packed(INDEX)
        if self.remote:
            try:
                data, found = storage.read_range(storage.join(self.root, name), place.offset, place.size)
            except MissingObjectError as error:
                raise self._not_as_packed(name) from error
            if found != whole:
                raise self._not_as_packed(name, found)
        else:
            data = self._read_local(place)
        if len(data) != place.size:
            raise self._not_as_packed(name)
        if hashlib.sha256(data).digest() != place.sha256:
            raise InputError(
                f"{storage.join(self.root, name)}: {image_id} in it is not what was packed, the pack is damaged; copy "
                "it again, or delete it and pack the images again"
            )
        return data

    def identities(self, ids: Iterable[str], mode: str) -> Iterator[str | None]:
        """Yield what identifies each file (see ``source_fingerprint``), from the index alone; None: not in the pack."""
        row: int | None = None
        for image_id in ids:
            row = self.index.find(image_id, 0 if row is None else row + 1)
            if row is None:
                yield None
            else:
                place = self.index.place(row)
                yield place.sha256.hex() if mode == "contents" else str(place.size)

    def _read_local(self, place: Place) -> bytes:
        path = Path(self.root, self.shards[place.shard][0])
        descriptor = self._files.get(place.shard)
        try:
            if descriptor is not None:
                return _read_at(descriptor, place)
            descriptor = self._opened(path, place.shard)
            try:
                return _read_at(descriptor, place)
            finally:
                if len(self._files) >= MOST_OPEN_FILES or self._files.setdefault(place.shard, descriptor) != descriptor:
                    os.close(descriptor)
        except FileNotFoundError as error:
            raise self._not_as_packed(path.name) from error
        except OSError as error:
            raise file_system_failed(path, error) from error

    def _opened(self, path: Path, shard: int) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(descriptor).st_size
        if size != self.shards[shard][1]:
            os.close(descriptor)
            raise self._not_as_packed(path.name, size)
        return descriptor

    def _not_as_packed(self, name: str, size: int | None = None) -> InputError:
        what = "missing or damaged" if size is None else f"{size} bytes, not what {PACK} says"
        return InputError(f"{storage.join(self.root, name)}: {what}; copy the pack again, or pack the images again")

    def __reduce__(self) -> tuple[type[PackSource], tuple[str, Path, tuple[tuple[str, int], ...]]]:
        return type(self), (self.root, self.index_file, self.shards)


def _read_at(descriptor: int, place: Place) -> bytes:
    """Read without moving the file's position, which threads and forked processes share."""
    data = os.pread(descriptor, place.size, place.offset)
    while len(data) < place.size and (more := os.pread(descriptor, place.size - len(data), place.offset + len(data))):
        data += more
    return data


def read_pack_file(root: str) -> dict[str, Any] | None:
    """Return the contents of ``pack.json`` below `root`, or None if there is none that `soco pack` wrote.

    Raises:
        InputError: it is damaged or of a newer version, or the store or the file system failed.
    """
    uri = storage.join(root, PACK)
    try:
        if not storage.is_s3(root) and not Path(uri).is_file():
            return None
        data = storage.read_bytes(uri)
    except MissingObjectError:
        return None
    damaged = InputError(f"{uri}: damaged; copy the pack again, or delete it and pack the images again")
    try:
        content = json.loads(data)
    except ValueError as error:
        # Others too may call a file so, but not beside an index.
        if KIND.encode() in data or storage.exists(storage.join(root, INDEX)):
            raise damaged from error
        return None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return None
    version = content.get("contract")
    if isinstance(version, int) and version != CONTRACT:
        raise InputError(f"{uri}: a pack of version {version}, this soco reads {CONTRACT}; update soco")
    if version != CONTRACT or not _is_whole(content):
        raise damaged
    return content


def _is_whole(content: dict[str, Any]) -> bool:
    """Tell whether ``pack.json`` says all that reading a pack needs."""
    try:
        source, index, shards = content["source"], content["index"], content["shards"]
        texts = [source["subset"], *source["splits"], index["sha256"], *(shard["file"] for shard in shards)]
        numbers = [index["bytes"], *(shard["bytes"] for shard in shards)]
    except (KeyError, TypeError):
        return False
    if not (all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)):
        return False
    # They become paths: a pack that somebody else made must not lead out of its folder.
    return _DIGEST.fullmatch(index["sha256"]) is not None and all(_TAR.fullmatch(shard["file"]) for shard in shards)


def open_pack(root: str, content: dict[str, Any]) -> PackSource:
    """Open a pack; the index of one on S3 is downloaded once per machine, below ``SOCO_SCRATCH``.

    Args:
        root: absolute local path, or S3 URI.
        content: what :func:`read_pack_file` returned.

    Raises:
        InputError: the index is missing, or not the one that belongs to ``pack.json``.
    """
    entry = content["index"]
    path = Path(root, INDEX)
    whole = False
    if storage.is_s3(root):
        path = storage.scratch_path(root) / f"{path.stem}-{entry['sha256'][:16]}{path.suffix}"
        whole = _is_index(path, entry) or _fetch_index(storage.join(root, INDEX), path, entry)
    if not (whole or _is_index(path, entry)):
        raise InputError(
            f"{storage.join(root, INDEX)}: missing, or not the index of its {PACK}; copy the pack again, or pack the "
            "images again"
        )
    return PackSource(root, path, tuple((shard["file"], shard["bytes"]) for shard in content["shards"]))


def _is_index(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]


def _fetch_index(uri: str, path: Path, entry: dict[str, Any]) -> bool:
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    # The processes of a machine start together; one of them downloads.
    with filelock.FileLock(path.with_suffix(".lock")):
        if not _is_index(path, entry):
            storage.download(uri, path)
            return _is_index(path, entry)
    return True

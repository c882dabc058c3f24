"""Tar files of images that any WebDataset tool reads as one sample an image, the same to the byte each time.

WebDataset takes members that share a key as one sample. The key is the name up to the first dot of its last
part, and what follows, in lower case, says what the member is.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable
from typing import IO

BLOCK = 512
END = bytes(2 * BLOCK)
NO_SUFFIX = "img"
"""What a file without a suffix gets; without one WebDataset would skip it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def member_names(ids: Iterable[str]) -> dict[str, str]:
    """Return the names of those members that cannot be called as their image.

    An id keeps its name where its key is its own and only its suffix follows the key. Elsewhere (``a.b.jpg``; ``a.png``
    beside ``a.jpg``) dots become underscores, and a number is added until the key is unique.

    Args:
        ids: all ids of the set, sorted: the first of several with the same key keeps its name.
    """
    taken: set[str] = set()
    others = []
    for image_id in ids:
        key, suffix = _key_and_suffix(image_id)
        if f"{key}.{suffix}" == image_id and key not in taken:
            taken.add(key)
        else:
            others.append(image_id)
    names = {}
    for image_id in others:
        wanted, suffix = _key_and_suffix(image_id)
        key, number = wanted, 0
        while key in taken:
            number += 1
            key = f"{wanted}_{number}"
        taken.add(key)
        names[image_id] = f"{key}.{suffix}"
    return names


def _key_and_suffix(image_id: str) -> tuple[str, str]:
    folder, slash, base = _CONTROL.sub("_", image_id).rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    if not (dot and suffix):
        stem, suffix = base, NO_SUFFIX
    key = f"{folder}{slash}{stem.replace('.', '_') or '_'}"
    top = key.partition("/")[0]
    # WebDataset takes what begins with such a name for its own notes, and skips it.
    return (f"./{key}" if re.fullmatch(r"__.*__", top) else key), suffix


class TarWriter:
    """Writes members one after another; no time, owner or machine is written.

    Args:
        file: open for writing, empty.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        """Bytes so far."""
        self._file = file
        self._digest = hashlib.sha256()

    def size_with(self, header: bytes, size: int) -> int:
        """Return how large the finished tar would be with one more member of `size` bytes."""
        return self.size + len(header) + size + -size % BLOCK + len(END)

    def add(self, header: bytes, data: bytes) -> int:
        """Append a member; return where its data begin."""
        self._write(header)
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return offset

    def finish(self) -> str:
        """Write the end of the tar; return the SHA-256 of the whole, in hexadecimal."""
        self._write(END)
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def member_header(name: str, size: int, image_id: str) -> bytes:
    """Return the header of a member; one that is not called as its image carries the id as its PAX comment."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    if name != image_id:
        info.pax_headers = {"comment": image_id}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")

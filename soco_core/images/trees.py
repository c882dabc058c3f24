"""What lies below the root of an image set: a local folder, or the listing of an S3 prefix."""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from soco_core import storage
from soco_core.errors import InputError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Names of files that count as images, in any case; what is in them decides how they are decoded."""


class Tree(Protocol):
    """Folders and files under names relative to a root, with ``/`` between folders; ``""`` is the root."""

    root: str

    def has_folder(self, name: str) -> bool:
        """Tell whether there is such a folder."""

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, not those below it; none if there is no such folder."""

    def images(self, folder: str) -> Iterator[str]:
        """Yield every image file below a folder, at any depth; hidden files and folders are left out."""

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those names that are no files."""

    def sizes(self) -> dict[str, int] | None:
        """Return the size in bytes of every file, if it is known without asking for each."""


class LocalTree:
    """A local folder.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, root: str) -> None:
        folder = Path(root).resolve()
        if not folder.exists():
            raise InputError(f"image folder {root} does not exist; give the path of a folder of images")
        if not folder.is_dir():
            raise InputError(f"image folder {root} is a file; give the folder that holds the images")
        self.root = str(folder)

    def has_folder(self, name: str) -> bool:
        """See :class:`Tree`."""
        return Path(self.root, name).is_dir()

    def files(self, folder: str) -> list[str]:
        """See :class:`Tree`."""
        path = Path(self.root, folder)
        return sorted(entry.name for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []

    def images(self, folder: str) -> Iterator[str]:
        """See :class:`Tree`; links are followed, but never round in a circle."""
        try:
            yield from _images_below(Path(self.root, folder), f"{folder}/" if folder else "", ())
        except OSError as error:
            raise InputError(
                f"cannot list image folder {error.filename}: {error.strerror}; check its permissions"
            ) from error

    def missing(self, names: Iterable[str]) -> list[str]:
        """See :class:`Tree`."""
        return [name for name in names if not Path(self.root, name).is_file()]

    def sizes(self) -> dict[str, int] | None:
        """See :class:`Tree`."""
        return None


class S3Tree:
    """An S3 prefix; it is listed once, when that is first needed."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    @cached_property
    def _listing(self) -> dict[str, int]:
        return dict(storage.list_objects(self.root))

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self._listing)

    def _below(self, folder: str) -> Iterator[str]:
        """Yield the names below a folder, relative to it."""
        prefix = f"{folder}/" if folder else ""
        for name in islice(self._names, bisect_left(self._names, prefix), None):
            if not name.startswith(prefix):
                return
            yield name.removeprefix(prefix)

    def has_folder(self, name: str) -> bool:
        """See :class:`Tree`."""
        return next(self._below(name), None) is not None

    def files(self, folder: str) -> list[str]:
        """See :class:`Tree`."""
        return [name for name in self._below(folder) if "/" not in name]

    def images(self, folder: str) -> Iterator[str]:
        """See :class:`Tree`."""
        for name in self._below(folder):
            if _is_image(name) and not any(part.startswith(".") for part in name.split("/")):
                yield f"{folder}/{name}" if folder else name

    def missing(self, names: Iterable[str]) -> list[str]:
        """See :class:`Tree`."""
        return [name for name in names if name not in self._listing]

    def sizes(self) -> dict[str, int] | None:
        """See :class:`Tree`."""
        return self._listing


def open_tree(root: str) -> Tree:
    """Look at a local folder or an S3 prefix.

    Raises:
        InputError: there is no such folder.
    """
    return S3Tree(root) if storage.is_s3(root) else LocalTree(root)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _images_below(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Follow links to folders: data sets are often linked together."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if _is_folder(entry):
                yield from _images_below(Path(entry.path), f"{name}/", (*above, here))
            elif _is_image(entry.name) and _is_file(entry):
                try:
                    name.encode()
                except UnicodeEncodeError as error:
                    raise InputError(f"{os.fsencode(entry.path)!r}: its name is not UTF-8; rename it") from error
                yield name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself leads nowhere
            return False
        raise


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere counts: its file is bad, and should be named. A pipe does not, nor a link to one."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True

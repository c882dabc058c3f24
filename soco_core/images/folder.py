"""An image set: the image files of a folder tree, under ids that do not depend on the machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from soco_core.artifacts.fingerprint import FINGERPRINT_LENGTH, file_sha256
from soco_core.engine.progress import Progress
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError, decode_image

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Names of files that count as images, in any case; what is in them decides how they are decoded."""

QUIET_IMAGES = 5000
"""Sets up to this size are hashed without showing progress."""


@dataclass(frozen=True)
class ImageSet:
    """The images of a folder, in the order of their ids."""

    root: str
    """Absolute path of the folder."""
    ids: tuple[str, ...]
    """Paths relative to `root`, with ``/`` between folders, sorted by code point."""

    def fingerprint(self, mode: Literal["contents", "sizes"]) -> str:
        """Return 16 hexadecimal digits that name the set, wherever it lies.

        Args:
            mode: ``contents`` hashes names and contents of all files, ``sizes`` names and sizes only.
        """
        digest = hashlib.sha256(mode.encode())
        many = len(self.ids) > QUIET_IMAGES
        with Progress("image set", len(self.ids), unit="images") if many else nullcontext() as progress:
            for image_id in self.ids:
                digest.update(f"\n{image_id}\0{self._identity(image_id, mode)}".encode())
                if progress is not None:
                    progress.advance()
        return digest.hexdigest()[:FINGERPRINT_LENGTH]

    def read(self, image_id: str) -> npt.NDArray[np.uint8]:
        """Return an image as upright uint8 RGB [H, W, 3].

        Raises:
            BadImageError: the file cannot be opened or decoded.
            InputError: the file system failed, which says nothing of the file.
        """
        path = Path(self.root, image_id)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, PermissionError) as error:
            raise BadImageError(f"cannot be opened: {error.strerror}") from error
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; run this again once it can be read") from error
        return decode_image(data)

    def _identity(self, image_id: str, mode: str) -> str:
        path = Path(self.root, image_id)
        try:
            return file_sha256(path) if mode == "contents" else str(path.stat().st_size)
        except (FileNotFoundError, PermissionError):
            return "cannot be opened"
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; run this again once it can be read") from error


def open_image_set(root: str) -> ImageSet:
    """Find the images of a local folder, at any depth; hidden files and folders are left out.

    Raises:
        InputError: the folder is missing, is a file, or holds no image.
    """
    folder = Path(root).resolve()
    if not folder.exists():
        raise InputError(f"image folder {root} does not exist; give the path of a folder of images")
    if not folder.is_dir():
        raise InputError(f"image folder {root} is a file; give the folder that holds the images")
    try:
        ids = tuple(sorted(_image_files(folder, "", ())))
    except OSError as error:
        raise InputError(
            f"cannot list image folder {error.filename}: {error.strerror}; check its permissions"
        ) from error
    if not ids:
        suffixes = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise InputError(
            f"image folder {root} holds no image file ({suffixes}); put images there or give another folder"
        )
    return ImageSet(str(folder), ids)


def _image_files(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Follow links to folders (data sets are often linked together), but never round in a circle."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if entry.is_dir():
                yield from _image_files(Path(entry.path), f"{name}/", (*above, here))
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and (entry.is_file() or entry.is_symlink()):
                try:
                    name.encode()
                except UnicodeEncodeError as error:
                    raise InputError(f"{os.fsencode(entry.path)!r}: its name is not UTF-8; rename it") from error
                yield name

"""The files of a data set: its root, its annotations, and whether its images are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from soco_core import storage
from soco_core.datasets.findings import Findings, Rule
from soco_core.engine.progress import Progress
from soco_core.errors import InputError
from soco_core.images.trees import Tree, open_tree

MISSING = Rule("error", "missing image", "add the image, or correct the annotations", "images")
NO_FILE = Rule("error", "image that is no file", "name an image file in the annotations", "images")
NO_FOLDER = Rule("error", "no folder of images", "put the images there, or correct the annotations", "splits")

SHORT_NUMBER = 8
"""Characters of a coordinate, such as ``-1234.56``; areas have more, and few are equal."""
LONG = 200
"""Entries of a list whose reading is shown."""
Follow = Callable[[str, Sequence[Any]], Iterator[Any]]
"""Goes through a long list, whose name it is told; it may show how far it is."""


def quietly(label: str, items: Sequence[Any]) -> Iterator[Any]:
    """Go through a list."""
    return iter(items)


def visibly(label: str, items: Sequence[Any]) -> Iterator[Any]:
    """Go through a list and show how far it is, if that takes a while."""
    if len(items) < LONG:
        yield from items
        return
    with Progress(label, len(items), unit="entries") as progress:
        for item in items:
            yield item
            progress.advance()


def open_root(place: str) -> Tree:
    """Look at the root of a data set: a local folder or an S3 prefix.

    Raises:
        InputError: there is no such folder.
    """
    if not storage.is_s3(place) and not Path(place).is_dir():
        raise InputError(
            f"{place}: no such folder; give the folder of the data set (docs/datasets.md shows its layout)"
        )
    return open_tree(place)


def read_json(uri: str) -> tuple[Any, str]:
    """Return what a JSON file holds, and its SHA-256 in hexadecimal.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    data = storage.read_bytes(uri)
    digest = hashlib.sha256(data).hexdigest()
    try:
        text = data.decode("utf-8-sig")
        del data  # as large as the file
        return json.loads(text, parse_float=_Floats().__getitem__), digest
    except (ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{uri}: not readable as JSON ({problem}); download or unpack it again") from error


class _Floats(dict[str, float]):
    """Numbers by their text: equal ones are one object, which is a third of the memory of COCO's polygons."""

    def __missing__(self, text: str) -> float:
        number = float(text)
        if len(text) <= SHORT_NUMBER:
            self[text] = number
        return number


def image_sizes(
    tree: Tree, folder: str, names: Sequence[str], file: str, findings: Findings, follow: Follow = quietly
) -> list[int | None]:
    """Return the size in bytes of each image file; None, and a finding, where there is none.

    Args:
        tree: the root.
        folder: of the images, relative to the root; empty: the root itself.
        names: relative to `folder`.
        file: the annotation file, for the findings.
        findings: where missing files are added.
        follow: goes through the names.
    """
    listing = tree.sizes()
    odd: list[str] = []
    place = storage.join(tree.root, folder) if folder else tree.root
    found: list[int | None] = []
    for name in follow("image files", names):
        size = None
        if listing is not None:
            size = listing.get(f"{folder}/{name}" if folder else name)
        else:
            try:
                status = Path(place, name).stat()
            except OSError:
                pass
            else:
                if S_ISREG(status.st_mode):
                    size = status.st_size
                else:
                    odd.append(name)
        found.append(size)
    if odd:
        findings.add(NO_FILE, file, f"image {odd[0]} in {place} is a folder, or a pipe or device", len(odd))
    there = set(odd)
    missing = [name for name, size in zip(names, found, strict=True) if size is None and name not in there]
    if missing:
        text = f"image {missing[0]} is not in {place} ({len(missing)} of {len(names)} are missing)"
        findings.add(MISSING, file, text)
        findings.add(MISSING, file, text, len(missing) - 1)
    return found


def find_images(
    tree: Tree,
    folders: Sequence[str],
    names: Sequence[str],
    file: str,
    findings: Findings,
    follow: Follow = quietly,
) -> tuple[str, list[int | None]]:
    """Find the folder of images among some below a root; return it, and the sizes as :func:`image_sizes` does."""
    # A few are tried: that the first is missing says nothing of the folder.
    for name in names[:10]:
        for folder in folders:
            if not tree.missing([f"{folder}/{name}" if folder else name]):
                place = storage.join(tree.root, folder) if folder else tree.root
                return place, image_sizes(tree, folder, names, file, findings, follow)
    if names:
        places = ", ".join(storage.join(tree.root, folder) if folder else tree.root for folder in folders)
        findings.add(NO_FOLDER, file, f"image {names[0]} is in none of {places}")
    return tree.root, [None] * len(names)

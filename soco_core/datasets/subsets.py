"""Parts of COCO's training images: chosen by their ids alone, or listed in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from soco_core import storage
from soco_core.datasets.split import LabelledSplit
from soco_core.errors import InputError
from soco_core.images.subset import take_subset


def choose_ids(ids: Iterable[int], share: str) -> list[int]:
    """Return the ids of a share of images, ascending.

    As for ``images.subset`` those are chosen whose id (in decimals) has the smallest salted SHA-256: neither the
    machine nor the order matters, and 5% is contained in 10%. The number is rounded to the nearest.

    Args:
        ids: of all images.
        share: such as ``5%``.

    Raises:
        InputError: it is not a share.
    """
    return sorted(map(int, take_subset(sorted(map(str, ids)), share, "the training images")))


def take_part(split: LabelledSplit, share: str, list_file: str = "") -> LabelledSplit:
    """Return a share of a split, or the images that a file lists.

    Raises:
        InputError: the list cannot be read, or names images that the split lacks.
    """
    if not list_file:
        chosen = choose_ids((image["id"] for image in split.images), share)
        return split.part(frozenset(chosen), share)
    listed = read_ids(list_file)
    missing = sorted(set(listed).difference(image["id"] for image in split.images))
    if missing:
        raise InputError(
            f"{list_file}: {missing[0]} is not an image of {split.annotation_file} ({len(missing)} of {len(listed)} "
            "listed ids are not); give a list of that data set"
        )
    return split.part(frozenset(listed), list_file)


def write_ids(split: LabelledSplit, uri: str | Path) -> None:
    """Write the ids of a split's images, one a line, as :func:`read_ids` reads them."""
    ids = sorted(image["id"] for image in split.images)
    head = f"# {len(ids)} images" + (f", {split.subset} of" if split.subset else " of") + f" {split.annotation_file}\n"
    storage.write_text(uri, head + "".join(f"{number}\n" for number in ids))


def read_ids(uri: str) -> list[int]:
    """Read a list of image ids: one a line, a JSON list, or a COCO file (the ids of its images).

    An entry is an id, or a file name of COCO (``000000000009.jpg``); blank lines and lines that begin with ``#`` are
    skipped.

    Raises:
        InputError: it cannot be read, is empty, or has an entry that is no id, or one twice.
    """
    text = storage.read_text(uri).removeprefix("\ufeff")
    if text.lstrip()[:1] in {"[", "{"}:
        entries, where = _json_entries(text, uri), "entry"
    else:
        entries, where = list(enumerate(text.splitlines(), 1)), "line"
        entries = [(number, line.strip()) for number, line in entries if line.strip() and line.strip()[0] != "#"]
    if not entries:
        raise InputError(f"{uri}: lists no image; give one id a line")
    seen: set[int] = set()
    for number, entry in entries:
        found = _as_id(entry)
        if found is None:
            raise InputError(f"{uri}: {where} {number}: {entry!r} is neither an id nor a file name of COCO")
        if found in seen:
            raise InputError(f"{uri}: {where} {number}: id {found} is listed twice; list it once")
        seen.add(found)
    return sorted(seen)


def _json_entries(text: str, uri: str) -> Sequence[tuple[int, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{uri}: not readable as JSON ({problem}); give a list of ids") from error
    if isinstance(content, dict):
        images = content.get("images")
        if not isinstance(images, list):
            raise InputError(f"{uri}: has no list 'images'; give a list of ids, or a COCO file")
        content = [image.get("id") if isinstance(image, dict) else image for image in images]
    return list(enumerate(content))


def _as_id(entry: object) -> int | None:
    if type(entry) is int:
        return entry
    if not isinstance(entry, str):
        return None
    stem = PurePosixPath(entry.strip()).stem.removeprefix("COCO_train2014_").removeprefix("COCO_val2014_")
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= 18 else None

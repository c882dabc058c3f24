"""Deterministic parts of an image set, by name: as many as COCO has, a percentage, a number, a list.

Which images a part of n images holds is decided by their ids alone: those n whose SHA-256, with a salt that
is the same for everybody, is smallest. So 10% is contained in 20%, and neither the machine nor the order of
files plays a part.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Sequence
from fractions import Fraction

from soco_core import storage
from soco_core.config import SUBSET_FORMS
from soco_core.errors import InputError

COCO_SIZE = "coco-size"
COCO_IMAGES = 241_690
"""Images of COCO train2017 (118,287) and unlabeled2017 (123,403), as the paper counts them (Table 9)."""
SALT = b"soco image subset\n"

_PERCENTAGE = re.compile(r"(\d+|\d*\.\d+)%", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)


def is_percentage(subset: str) -> bool:
    """Tell whether a subset depends on the size of the set that it is taken of."""
    return _PERCENTAGE.fullmatch(subset) is not None


def is_file(subset: str) -> bool:
    """Tell whether a subset names a file of ids."""
    return subset not in {"", COCO_SIZE} and not is_percentage(subset) and _NUMBER.fullmatch(subset) is None


def take_subset(ids: Sequence[str], subset: str, root: str) -> tuple[str, ...]:
    """Return the ids of a subset, in the order of `ids`.

    Args:
        ids: all ids of the set, sorted.
        subset: ``coco-size``, ``10%``, ``5000``, or a file (path or S3 URI) that lists ids, one a line; blank lines and
            lines that begin with ``#`` are skipped.
        root: of the set, for messages.

    Raises:
        InputError: the set has too few images, or lacks one of the list; the list cannot be read or is empty.
    """
    if is_file(subset):
        return _listed(ids, subset, root)
    if subset == COCO_SIZE:
        return _ranked(ids, COCO_IMAGES, subset, root)
    if is_percentage(subset):
        share = Fraction(subset[:-1]) / 100
        if not 0 < share <= 1:
            raise InputError(f"images.subset {subset}: give more than 0% and at most 100%")
        return _ranked(ids, max(1, int(len(ids) * share + Fraction(1, 2))), subset, root)
    return _ranked(ids, int(subset), subset, root)


def _ranked(ids: Sequence[str], count: int, subset: str, root: str) -> tuple[str, ...]:
    if count < 1:
        raise InputError(f"images.subset {subset}: give at least 1 image")
    if count > len(ids):
        raise InputError(
            f"images.subset {subset}: {count} images, but {root} has only {len(ids)}; give a smaller subset"
        )
    chosen = heapq.nsmallest(count, ids, key=lambda image_id: hashlib.sha256(SALT + image_id.encode()).digest())
    return tuple(sorted(chosen))


def _listed(ids: Sequence[str], path: str, root: str) -> tuple[str, ...]:
    try:
        text = storage.read_text(path)
    except InputError as error:
        raise InputError(f"images.subset: {error}; {SUBSET_FORMS}") from error
    lines = [line.strip() for line in text.removeprefix("\ufeff").split("\n")]
    wanted = {line for line in lines if line and not line.startswith("#")}
    if not wanted:
        raise InputError(f"images.subset {path}: lists no image; give one id a line")
    missing = sorted(wanted.difference(ids))
    if missing:
        raise InputError(
            f"images.subset {path}: {missing[0]} is not an image of {root} ({len(missing)} of {len(wanted)} listed ids "
            "are not); an id is the path relative to that root"
        )
    return tuple(image_id for image_id in ids if image_id in wanted)

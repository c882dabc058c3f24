"""The JSON formats in which others hand on boxes, read as a stream."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain
from typing import IO, Any

import ijson
import numpy as np
import numpy.typing as npt

from soco_core.errors import InputError
from soco_core.proposals.boxes_stream import open_boxes

FORMATS = (
    "the file must be the authors' {name: [[x, y, w, h], ...]}, COCO annotations or COCO results (docs/proposals.md)"
)
COCO_LISTS = frozenset({"images", "annotations"})

Key = str | int


class Found:
    """What a file holds: a number for each key, and for each box that number and its corners.

    Args:
        source: path or S3 URI of the file, for errors.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.keys: dict[Key, int] = {}
        """Names of images, or (COCO results) numbers of images; all are of one type."""
        self.owners = array("i")
        """The number of each box's key."""
        self.corners = array("f")
        """x1 y1 x2 y2 of each box in pixels, flat."""

    def add(self, owner: int, boxes: Any, entry: str) -> None:
        """Add a list of [x, y, w, h] as it stands in the file at `entry`."""
        corners = _corners(boxes, lambda problem: self.error(entry, problem))
        self.owners.frombytes(np.full(len(corners), owner, np.intc).tobytes())
        self.corners.frombytes(corners.tobytes())

    def error(self, entry: str, problem: str) -> InputError:
        """Return the error that names the file and the entry."""
        return InputError(f"{self.source}: {entry}: {problem}; {FORMATS}")


def read_boxes(source: str) -> Found:
    """Read a JSON file of boxes; memory holds its keys, and the boxes as flat arrays.

    Raises:
        InputError: the file cannot be read, or is in none of the formats; names the file and the entry.
    """
    found = Found(source)
    try:
        with open_boxes(source, quiet=True) as file:
            read = _format(file, source)
        read(found)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raw = error.args[0]  # of a text that is not UTF-8, ijson gives bytes
        text = raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else str(error)
        cause = " ".join(text.partition("(right here)")[0].split())[:120]
        raise InputError(f"{source}: not whole, valid JSON ({cause}); {FORMATS}") from error
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}; give the JSON file of the boxes") from error
    if not found.owners:
        raise InputError(f"{source}: holds no box; {FORMATS}")
    return found


def _format(file: IO[bytes], source: str) -> Callable[[Found], None]:
    """Tell the format by the first tokens: the authors' is an object of lists of lists, which COCO's is not."""
    tokens = ijson.basic_parse(file, use_float=True)
    first, _ = next(tokens)
    if first == "start_array":
        return _read_results
    keys = set()
    if first == "start_map":
        for event, key in tokens:
            if event == "end_map":
                break
            keys.add(key)
            if next(tokens)[0] != "start_array":
                return _read_annotations
            inner, _ = next(tokens)
            if inner != "end_array":
                return _read_authors if inner == "start_array" else _read_annotations
    if not keys:
        raise InputError(f"{source}: holds no box; {FORMATS}")
    return _read_annotations if "annotations" in keys else _read_authors


def _has_coco_lists(source: str) -> bool:
    with open_boxes(source, quiet=True) as file:
        events = ijson.parse(file, use_float=True)
        return any(event == "map_key" and not prefix and key in COCO_LISTS for prefix, event, key in events)


def _read_authors(found: Found) -> None:
    with open_boxes(found.source) as file:
        for name, boxes in ijson.kvitems(file, "", use_float=True):
            if name in found.keys:
                raise found.error(repr(name), "stands there twice")
            found.add(found.keys.setdefault(name, len(found.keys)), boxes, repr(name))


def _read_annotations(found: Found) -> None:
    owners: dict[Key, int] = {}
    # Read twice: the annotations may come before the images that they belong to.
    with open_boxes(found.source) as file:
        for k, image in enumerate(ijson.items(file, "images.item", use_float=True)):
            entry = f"images[{k}]"
            image_id, name = _key(found, image, "id", entry), image.get("file_name")
            if not isinstance(name, str) or not name:
                raise found.error(entry, f"file_name is {_shown(name)}, not the name of an image file")
            if image_id in owners or name in found.keys:
                raise found.error(entry, f"id {image_id!r} or file_name {name!r} stands there twice")
            owners[image_id] = found.keys.setdefault(name, len(found.keys))
    if not owners and not _has_coco_lists(found.source):
        # Nothing of COCO: the authors' format with a wrong entry, which its reader names.
        _read_authors(found)
        return
    with open_boxes(found.source) as file:
        for k, annotation in enumerate(ijson.items(file, "annotations.item", use_float=True)):
            entry = f"annotations[{k}]"
            image_id = _key(found, annotation, "image_id", entry)
            if image_id not in owners:
                raise found.error(entry, f"image_id {image_id!r} is none of `images`")
            if not annotation.get("iscrowd"):
                found.add(owners[image_id], [annotation.get("bbox")], f"{entry}.bbox")


def _read_results(found: Found) -> None:
    kind: type[Key] | None = None
    with open_boxes(found.source) as file:
        for k, result in enumerate(ijson.items(file, "item", use_float=True)):
            entry = f"[{k}]"
            image_id = _key(found, result, "image_id", entry)
            kind = kind or type(image_id)
            if type(image_id) is not kind:
                raise found.error(entry, f"image_id {image_id!r} is of another type than those before it")
            found.add(found.keys.setdefault(image_id, len(found.keys)), [result.get("bbox")], f"{entry}.bbox")


def _key(found: Found, item: Any, field: str, entry: str) -> Key:
    if not isinstance(item, dict):
        raise found.error(entry, f"{_shown(item)} is not an object with {field}")
    value = item.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise found.error(entry, f"{field} is {_shown(value)}, neither a whole number nor a string")
    return value


def _corners(boxes: Any, error: Callable[[str], InputError]) -> npt.NDArray[np.float32]:
    """From a list of [x, y, w, h] to float32 [N, 4], x1 y1 x2 y2."""
    if boxes == []:
        return np.zeros((0, 4), np.float32)
    try:
        values = np.asarray(boxes)
    except ValueError:  # lists of different lengths
        values = np.empty(0, object)
    four_numbers = values.dtype.kind in "iuf" and values.ndim == 2 and values.shape[1] == 4
    # To numpy, true among numbers is 1.
    if not four_numbers or bool in set(map(type, chain.from_iterable(boxes))):
        raise error(f"{_shown(boxes)}: a box is [x, y, w, h], four numbers")
    values = values.astype(np.float64)
    negative = (values[:, 2:] < 0).any(axis=1)
    if negative.any():
        raise error(f"{_shown(boxes[int(negative.argmax())])}: negative width or height")
    values[:, 2:] += values[:, :2]
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise error(f"{_shown(boxes)}: a number is too large")
    return values.astype(np.float32)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

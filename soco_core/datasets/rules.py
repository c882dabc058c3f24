"""What a box, a mask and a file name must be, in every format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

from soco_core.datasets.findings import Rule
from soco_core.datasets.split import is_polygon

OVERHANG = 1.0
"""Pixels by which a box may reach beyond its image: COCO's own boxes do, by rounding."""

XYWH = "a box is [x, y, width, height] in pixels of its image"
NO_BOX = Rule("error", "no box", f"{XYWH}; correct the annotations")
NEGATIVE_SIDE = Rule("error", "box with a negative side", f"{XYWH}; correct the annotations")
OUTSIDE = Rule("error", "box outside its image", f"{XYWH}; correct the box, or the image's width and height")
DEGENERATE = Rule("warning", "box without area", "it is not trained on; correct or remove it")
NO_MASK = Rule(
    "error", "mask that is neither polygons nor RLE", "write a list of polygons [x1, y1, x2, y2, ...] or RLE"
)
RLE_SIZE = Rule("error", "RLE of another size than its image", "write size as [height, width], whole numbers")
RLE_COUNTS = Rule("error", "RLE whose counts are wrong", "write the counts anew: they sum to height x width")
NO_POLYGON = Rule(
    "warning", "mask without a polygon", "detectors of masks do not train on it; add its polygons, or remove it"
)
UNMASKED = Rule(
    "warning",
    "object without a mask among some that have one",
    "detectors of masks refuse it; write its `segmentation`",
)
BOXES_ALONE = Rule(
    "note", "no object has a mask", "take a detector of boxes: retinanet, fcos or faster-rcnn-c4", "splits"
)
BAD_POLYGON = Rule(
    "warning",
    "polygon with an odd number of coordinates, or fewer than six",
    "it is left out of its mask; write x and y of three corners at least",
)
POLYGON_OUTSIDE = Rule(
    "warning", "polygon outside its image", "it covers nothing; correct it, or the image's width and height"
)
RLE_OBJECT = Rule(
    "note", "mask as RLE of an object that is no crowd", "it is trained on and evaluated as a bitmap, not as polygons"
)
EMPTY_IMAGE = Rule("note", "image without annotations", "it is not trained on, and counts in the evaluation", "images")
CROWD = Rule("note", "crowd", "it is not trained on; the evaluation ignores what lies in it")
DIFFICULT = Rule("note", "difficult object", "the evaluation ignores it")
FILE_NAME = Rule("error", "file name that leaves the folder", "write it relative to the folder, without `..`", "images")
LONGEST_PART, LONGEST_NAME = 255, 1024
"""Bytes of a file's or folder's name in a file system, and of a whole name in a store."""
NO_FILE_NAME = Rule(
    "error",
    "file name that no file can have",
    f"rename the file: UTF-8, at most {LONGEST_PART} bytes between slashes and {LONGEST_NAME} in all",
    "images",
)

Problem = tuple[Rule, str, str]
"""Rule, the field below the item (such as ``bbox``), what its value is."""


def is_number(value: object) -> bool:
    """Tell whether a JSON value is a finite number."""
    if type(value) is int:
        return abs(value) < 2**63
    return type(value) is float and math.isfinite(value)


def box_problems(box: Any, width: int, height: int) -> Iterator[Problem]:
    """Yield what is wrong with a box.

    Args:
        box: what the file has.
        width: of its image, in pixels.
        height: of its image, in pixels.
    """
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        yield NO_BOX, "bbox", f"{short(box)} is not [x, y, width, height]"
        return
    x, y, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        yield NEGATIVE_SIDE, "bbox", f"{box} has a negative side"
    elif min(x, y) < -OVERHANG or x + box_width > width + OVERHANG or y + box_height > height + OVERHANG:
        yield OUTSIDE, "bbox", f"{box} lies outside its image of {width}x{height} pixels"
    elif box_width == 0 or box_height == 0:
        # Not an error: COCO train2017 itself holds two boxes of height 0.
        yield DEGENERATE, "bbox", f"{box} has no area"


def mask_problems(mask: Any, width: int, height: int) -> Iterator[Problem]:
    """Yield what is wrong with a mask: polygons or RLE; the sizes are those of its image, in pixels.

    An empty list is none: detectors of boxes need no mask.
    """
    if isinstance(mask, dict):
        yield from _rle_problems(mask, width, height)
        return
    if not isinstance(mask, list) or not all(map(_is_coordinates, mask)):
        yield NO_MASK, "segmentation", f"{short(mask)} is neither a list of polygons nor RLE"
        return
    for index, polygon in enumerate(mask):
        if not is_polygon(polygon):
            yield BAD_POLYGON, f"segmentation[{index}]", f"has {len(polygon)} coordinates"
        elif _is_outside(polygon[::2], width) or _is_outside(polygon[1::2], height):
            shown = f"{short(polygon)} lies wholly outside its image of {width}x{height} pixels"
            yield POLYGON_OUTSIDE, f"segmentation[{index}]", shown


def is_safe_name(name: object) -> bool:
    """Tell whether a value is a relative path that stays in its folder, and that a file can have."""
    return next(name_problems(name), None) is None


def name_problems(name: object) -> Iterator[Problem]:
    """Yield what is wrong with the name of an image file."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or name.startswith("/")
        or "\0" in name
        or "\\" in name
        or ".." in name.split("/")
    ):
        yield FILE_NAME, "file_name", f"{short(name)} is not a path inside the folder of images"
        return
    try:
        parts = [len(part.encode()) for part in name.split("/")]
    except UnicodeEncodeError:
        yield NO_FILE_NAME, "file_name", f"{short(name)} has half of a surrogate pair, which is no character"
        return
    if max(parts) > LONGEST_PART or sum(parts) + len(parts) - 1 > LONGEST_NAME:
        yield NO_FILE_NAME, "file_name", f"{short(name)} is too long"


def is_size(value: object, height: int, width: int) -> bool:
    """Tell whether a value is the size of an RLE, [height, width]: whole numbers, since 480.0 cannot be decoded."""
    sides = list(value) if isinstance(value, list | tuple) else []
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    return whole and sides == [height, width]


def short(value: object) -> str:
    """Write a value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rle_problems(mask: dict[str, Any], width: int, height: int) -> Iterator[Problem]:
    if "size" not in mask or "counts" not in mask:
        yield NO_MASK, "segmentation", f"an RLE has `size` and `counts`, not {short(sorted(map(str, mask)))}"
        return
    counts = mask["counts"]
    if not is_size(mask["size"], height, width):
        yield RLE_SIZE, "segmentation.size", f"{short(mask['size'])} is not [{height}, {width}]"
        return
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        yield RLE_COUNTS, "segmentation.counts", f"{short(counts)} are no run lengths"
    elif sum(runs) != height * width:
        yield RLE_COUNTS, "segmentation.counts", f"sum to {sum(runs)}, not to {height * width}"


def _runs(text: str) -> list[int] | None:
    """Read COCO's compressed run lengths: five bits a character, from the third on as differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def _is_outside(coordinates: list[float], side: int) -> bool:
    return min(coordinates) > side or max(coordinates) < 0


def _is_coordinates(polygon: object) -> bool:
    """Quick, since there are some 50 million coordinates in COCO: a sum of finite numbers is finite."""
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        return False
    try:
        return math.isfinite(math.fsum(polygon))
    except (OverflowError, ValueError):
        return False

"""Detections as arrays, in an order that does not depend on how they came."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np

from soco_core.datasets.rules import is_size, short
from soco_core.datasets.split import LabelledSplit
from soco_core.errors import InputError


@dataclass(frozen=True)
class Detections:
    """N detections by image, falling score, class, box and mask."""

    images: np.ndarray
    """int64 [N]: an image's place among the split's image ids, sorted."""
    classes: np.ndarray
    """int64 [N]: a category's place among the split's categories."""
    boxes: np.ndarray
    """float64 [N, 4]: x, y, width, height in pixels, 0-based."""
    scores: np.ndarray
    """float64 [N]"""
    masks: list[dict[str, Any]] | None
    """N masks, compressed RLE."""

    def take(self, places: np.ndarray) -> Detections:
        """Return those at these places (int64 or bool)."""
        masks = self.masks
        if masks is not None:
            masks = [masks[place] for place in np.arange(len(masks))[places].tolist()]
        return Detections(self.images[places], self.classes[places], self.boxes[places], self.scores[places], masks)

    def best_of_each_image(self, limit: int) -> Detections:
        """Return the `limit` detections of each image with the highest scores."""
        first = np.searchsorted(self.images, self.images)
        return self.take(np.flatnonzero(np.arange(len(self.images)) - first < limit))


def image_places(split: LabelledSplit) -> dict[int, int]:
    """Image id -> its place among the sorted ids."""
    return {number: place for place, number in enumerate(sorted(image["id"] for image in split.images))}


def read_detections(split: LabelledSplit, predictions: list[dict[str, Any]], masks: bool) -> Detections:
    """Check predictions, as `evaluate` takes them, and put them in order; masks are left out unless asked for.

    Raises:
        InputError: one of them is not what it should be.
    """
    places, count = image_places(split), len(predictions)
    try:
        images = np.fromiter((places[item["image_id"]] for item in predictions), np.int64, count)
        classes = np.fromiter((split.class_of[item["category_id"]] for item in predictions), np.int64, count)
        scores = _numbers([item["score"] for item in predictions])
        sides = [item["bbox"] for item in predictions]
        boxes = _numbers(list(chain.from_iterable(sides))).reshape(-1, 4)
        fine = set(map(len, sides)) <= {4} and bool(np.isfinite(scores).all() and np.isfinite(boxes).all())
        fine = fine and bool((boxes[:, 2:] >= 0).all())
    except (KeyError, TypeError, ValueError, OverflowError):
        fine = False
    found: list[Any] | None = [item.get("segmentation") for item in predictions] if fine and masks else None
    if found is not None:
        sizes = {image["id"]: [image["height"], image["width"]] for image in split.images}
        fine = all(_is_mask(mask, sizes[item["image_id"]]) for mask, item in zip(found, predictions, strict=True))
    if not fine:
        raise _first_fault(split, predictions, masks)
    # Only detections that are equal in all else are told apart by their masks: a checksum will do.
    checksums = np.zeros(count) if found is None else np.array([_checksum(mask) for mask in found])
    order = np.lexsort((checksums, *boxes.T[::-1], classes, -scores, images))
    return Detections(images, classes, boxes, scores, found).take(order)


def _numbers(values: list[Any]) -> np.ndarray:
    # Numpy alone would read texts as numbers.
    if not all(issubclass(kind, Real) for kind in set(map(type, values))):
        raise TypeError
    return np.array(values, dtype=np.float64)


def _is_mask(mask: Any, size: list[int]) -> bool:
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str | bytes):
        return False
    return is_size(mask.get("size"), *size)


def _checksum(mask: dict[str, Any]) -> int:
    counts = mask["counts"]
    return zlib.crc32(counts.encode() if isinstance(counts, str) else counts)


def _first_fault(split: LabelledSplit, predictions: list[dict[str, Any]], masks: bool) -> InputError:
    """Say what is wrong with the first prediction that is wrong."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in split.images}
    for number, item in enumerate(predictions):
        for fault in _faults(item, sizes, split.class_of, masks):
            return InputError(f"predictions[{number}]{fault}")
    raise AssertionError("no prediction is wrong")


def _faults(item: Any, sizes: dict[int, list[int]], class_of: dict[int, int], masks: bool) -> Iterator[str]:
    """Yield what is wrong with a prediction; only the first is sure to be right."""
    keys = ("image_id", "category_id", "bbox", "score", *(["segmentation"] if masks else []))
    if not isinstance(item, dict):
        yield f": {short(item)} is no detection; write an object with {', '.join(keys)}"
    for key in keys:
        if key not in item:
            yield f": has no {key!r}; a detection has {', '.join(keys)}"
    image, category, box, score = (item[key] for key in keys[:4])
    if not _is_key(image, sizes):
        yield f".image_id: {short(image)} is no image of the split; give the predictions of the images evaluated"
    if not _is_key(category, class_of):
        yield f".category_id: {short(category)} is no category of the split; write the category ids of its annotations"
    if not (_are_finite(box) and len(box) == 4 and min(box[2:]) >= 0):
        yield f".bbox: {short(box)} is not [x, y, width, height] of finite numbers, the sides from 0 on; correct it"
    if not _are_finite([score]):
        yield f".score: {short(score)} is not a finite number; weights that diverged predict such"
    if masks and not _is_mask(item["segmentation"], sizes[image]):
        yield f".segmentation: is not compressed RLE of the image's size {sizes[image]}; encode the mask anew"


def _are_finite(values: Any) -> bool:
    try:
        return bool(np.isfinite(_numbers(list(values))).all())
    except (TypeError, OverflowError):
        return False


def _is_key(value: Any, known: dict[int, Any]) -> bool:
    try:
        return value in known
    except TypeError:
        return False

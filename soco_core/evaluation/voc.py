"""Pascal VOC 2007's 11-point average precision, equal to detectron2's PascalVOCDetectionEvaluator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from soco_core.datasets.split import LabelledSplit
from soco_core.evaluation.detections import Detections, image_places
from soco_core.evaluation.tables import Tables

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
RECALLS = np.arange(0.0, 1.1, 0.1)
"""As VOC's code counts them: 0.3 is 0.30000000000000004, which 3 of 10 objects do not reach."""


@dataclass(frozen=True)
class _Truths:
    """M objects by image and class."""

    keys: np.ndarray
    """int64 [M]: image * number of classes + class, not falling."""
    classes: np.ndarray
    """int64 [M]"""
    corners: np.ndarray
    """float64 [M, 4]: as `_corners` returns them."""
    difficult: np.ndarray
    """bool [M]"""


def voc_tables(split: LabelledSplit, detections: Detections) -> Tables:
    """Return AP, AP50 and AP75 (paper 4.3): means over the classes that have an object that is not difficult.

    AP is the mean over the thresholds .50, .55 .. .95 of the IoU. Scores count with 3 decimals and boxes with 1, for
    VOC's result files have no more; equal scores keep the order of the detections.
    """
    truths = _truths(split)
    best, overlaps = _best_truths(detections, truths, len(split.categories))
    # numpy's own rounding scales first, and may err where the next digit is a 5.
    scores = np.array([round(score, 3) for score in detections.scores.tolist()])
    values = np.full((len(split.categories), len(THRESHOLDS)), np.nan)
    for place in range(len(split.categories)):
        objects = int(np.count_nonzero((truths.classes == place) & ~truths.difficult))
        if not objects:
            continue
        mine = np.flatnonzero(detections.classes == place)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        for column, threshold in enumerate(THRESHOLDS):
            hit = overlaps[mine] > threshold
            values[place, column] = 100 * _average_precision(best[mine], hit, truths.difficult, objects)
    counted = values[~np.isnan(values[:, 0])]
    names = [category["name"] for category in split.categories]
    return Tables(
        numbers={"AP": _mean(counted), "AP50": _mean(counted[:, 0]), "AP75": _mean(counted[:, 5])},
        categories={
            name: None if np.isnan(row[0]) else float(row.mean()) for name, row in zip(names, values, strict=True)
        },
    )


def _average_precision(best: np.ndarray, hit: np.ndarray, difficult: np.ndarray, objects: int) -> float:
    """Return the mean of the highest precision from each of eleven recalls on, in 0..1.

    Args:
        best: int64 [N], the object that overlaps most with each detection, by falling score.
        hit: bool [N], whether the overlap is large enough.
        difficult: bool [M], of all objects.
        objects: how many can be found.
    """
    ignored = np.zeros(len(best), dtype=bool)
    ignored[hit] = difficult[best[hit]]
    hits = np.flatnonzero(hit & ~ignored)
    # An object is found once, by the highest score; each further detection of it is false.
    true = np.zeros(len(best), dtype=bool)
    true[hits[np.unique(best[hits], return_index=True)[1]]] = True
    found, wrong = np.cumsum(true), np.cumsum(~true & ~ignored)
    precision = found / np.maximum(found + wrong, np.finfo(np.float64).eps)
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(highest[np.searchsorted(found / objects, RECALLS)].sum() / len(RECALLS))


def _best_truths(detections: Detections, truths: _Truths, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each detection the object of its class and image that overlaps most, and its IoU.

    Of equal ones the first counts. Where there is no object, the IoU is minus infinity and the object is -1.
    """
    boxes = _decimals(_corners(detections.boxes))
    keys = detections.images * classes + detections.classes
    first = np.searchsorted(truths.keys, keys, "left")
    counts = np.searchsorted(truths.keys, keys, "right") - first
    owners = np.repeat(np.arange(len(keys)), counts)
    others = np.arange(len(owners)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    overlaps = _overlaps(boxes[owners], truths.corners[others])
    order = np.lexsort((-overlaps, owners))
    order = order[np.flatnonzero(np.diff(owners, prepend=-1))]
    best, highest = np.full(len(keys), -1), np.full(len(keys), -np.inf)
    best[owners[order]] = others[order]
    highest[owners[order]] = overlaps[order]
    return best, highest


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes with both ends inclusive, hence the + 1; [N, 4] and [N, 4] -> [N]."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2]) + 1.0
    common = np.maximum(sides, 0.0).prod(axis=1)
    area, other_area = ((item[:, 2:] - item[:, :2] + 1.0).prod(axis=1) for item in (boxes, others))
    return common / (area + other_area - common)


def _truths(split: LabelledSplit) -> _Truths:
    places, count = image_places(split), len(split.annotations)
    images = np.fromiter((places[item["image_id"]] for item in split.annotations), np.int64, count)
    classes = np.fromiter((split.class_of[item["category_id"]] for item in split.annotations), np.int64, count)
    boxes = np.array([item["bbox"] for item in split.annotations], dtype=np.float64).reshape(-1, 4)
    difficult = np.array([item["difficult"] for item in split.annotations], dtype=bool)
    keys = images * len(split.categories) + classes
    order = np.argsort(keys, kind="stable")
    return _Truths(keys[order], classes[order], _corners(boxes)[order], difficult[order])


def _corners(boxes: np.ndarray) -> np.ndarray:
    """[x, y, width, height], 0-based, to VOC's [xmin, ymin, xmax, ymax], 1-based and with the last pixel."""
    return np.concatenate([boxes[:, :2] + 1.0, boxes[:, :2] + boxes[:, 2:]], axis=1)


def _decimals(boxes: np.ndarray) -> np.ndarray:
    """Round to one decimal, as a number is written."""
    return np.array([round(value, 1) for value in boxes.ravel().tolist()]).reshape(-1, 4)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None

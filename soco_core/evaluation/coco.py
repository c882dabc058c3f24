"""COCO's and LVIS's numbers by faster-coco-eval."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from soco_core.datasets.split import LabelledSplit, is_polygon
from soco_core.errors import InputError
from soco_core.evaluation.detections import Detections, image_places
from soco_core.evaluation.tables import Tables

Kind = Literal["boxes", "masks"]
IOU_TYPES: dict[Kind, str] = {"boxes": "bbox", "masks": "segm"}
SIZES = ("small", "medium", "large")
FREQUENCIES = ("r", "c", "f")
NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
LVIS_LIMIT = 300
"""Detections of an image that LVIS looks at, over all its categories."""


def coco_tables(split: LabelledSplit, detections: Detections, kind: Kind) -> Tables:
    """Return COCO's twelve numbers; LVIS's thirteen for a split of LVIS.

    Raises:
        InputError: a category of LVIS says neither its frequency nor the number of its training images.
    """
    names = [category["name"] for category in split.categories]
    lvis = split.format == "lvis"
    frequencies = np.array([_frequency(split, category) for category in split.categories]) if lvis else None
    if lvis:
        # The library takes the best 300 of each category; LVIS, the best 300 of an image first.
        detections = _judged(split, detections.best_of_each_image(LVIS_LIMIT))
    limits = [LVIS_LIMIT] if lvis else [1, 10, 100]
    precision, recall = _curves(split, detections, kind, limits)
    best = precision[:, :, :, 0, -1]
    numbers = {"AP": _mean(best), "AP50": _mean(best[0]), "AP75": _mean(best[5])}
    numbers |= {f"AP{size}": _mean(precision[:, :, :, place, -1]) for place, size in enumerate(SIZES, 1)}
    if frequencies is not None:
        numbers |= {f"AP{name}": _mean(best[:, :, frequencies == name]) for name in FREQUENCIES}
    numbers |= {f"AR{limit}": _mean(recall[:, :, 0, place]) for place, limit in enumerate(limits)}
    numbers |= {f"AR{size}": _mean(recall[:, :, place, -1]) for place, size in enumerate(SIZES, 1)}
    return Tables(numbers, {name: _mean(best[:, :, place]) for place, name in enumerate(names)})


def _judged(split: LabelledSplit, detections: Detections) -> Detections:
    """Leave out the categories that LVIS says nothing of in an image: neither marked there nor known to be absent."""
    known = {(item["image_id"], item["category_id"]) for item in split.annotations} | _listed(split, NEGATIVE)
    places, classes = image_places(split), len(split.categories)
    keys = [places[image] * classes + split.class_of[category] for image, category in known]
    return detections.take(np.isin(detections.images * classes + detections.classes, keys))


def _listed(split: LabelledSplit, key: str) -> set[tuple[int, int]]:
    """Image and category ids of one of LVIS's lists."""
    return {(image["id"], category) for image in split.images for category in image[key]}


def _curves(
    split: LabelledSplit, detections: Detections, kind: Kind, limits: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision [IoU, recall, category, size, limit] and recall [IoU, category, size, limit].

    Both are float64 in 0..1, and -1 where there is nothing to find. A category at a time, and only the images that have
    it: the library needs a kilobyte for each pair of an image and a category, of which LVIS has 24 million.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truths = _truths(split, kind)
    ids = sorted(image["id"] for image in split.images)
    sizes = {image["id"]: {"height": image["height"], "width": image["width"]} for image in split.images}
    unmarked = _listed(split, NOT_EXHAUSTIVE) if split.format == "lvis" else set()
    detections = detections.take(np.argsort(detections.classes, kind="stable"))
    bounds = np.searchsorted(detections.classes, np.arange(len(truths) + 1)).tolist()
    precision = np.full((10, 101, len(truths), 1 + len(SIZES), len(limits)), -1.0)
    recall = np.full((10, len(truths), 1 + len(SIZES), len(limits)), -1.0)
    for place, category in enumerate(split.categories):
        if not truths[place]:
            continue
        found = _found(detections.take(np.arange(*bounds[place : place + 2])), kind)
        images = [
            # Of what LVIS does not judge in an image nothing is left.
            {
                "id": image,
                **sizes[ids[image]],
                NEGATIVE: [0],
                NOT_EXHAUSTIVE: [0] if (ids[image], category["id"]) in unmarked else [],
            }
            for image in sorted({item["image_id"] for item in (*truths[place], *found)})
        ]
        truth, results = (
            COCO({"images": images, "annotations": items, "categories": [{"id": 0, "frequency": "f"}]})
            for items in (truths[place], found)
        )
        evaluation = COCOeval_faster(truth, results, IOU_TYPES[kind], lvis_style=split.format == "lvis")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        precision[:, :, place] = evaluation.eval["precision"][:, :, 0]
        recall[:, place] = evaluation.eval["recall"][:, 0]
    return precision, recall


def _truths(split: LabelledSplit, kind: Kind) -> list[list[dict[str, Any]]]:
    """The annotations of each class, all under category 0. They are copies, since the library writes into them, and
    are counted from 1, since it takes 0 for "no match".
    """
    places = image_places(split)
    truths: list[list[dict[str, Any]]] = [[] for _ in split.categories]
    for number, item in enumerate(split.annotations, 1):
        place = split.class_of[item["category_id"]]
        shape = {"bbox": item["bbox"]} if kind == "boxes" else {"segmentation": _mask(item["segmentation"])}
        truths[place].append(
            {
                "id": number,
                "image_id": places[item["image_id"]],
                "category_id": 0,
                "area": item["area"],
                "iscrowd": item["iscrowd"],
                **shape,
            }
        )
    return truths


def _mask(segmentation: Any) -> Any:
    """The mask without what is no polygon, which is not trained on either."""
    return segmentation if isinstance(segmentation, dict) else [item for item in segmentation if is_polygon(item)]


def _found(detections: Detections, kind: Kind) -> list[dict[str, Any]]:
    """The detections of a category; a mask is small, medium or large by its own area, not its box's."""
    from faster_coco_eval.core import mask as rle

    shapes: list[Any]
    if kind == "boxes":
        name, shapes = "bbox", detections.boxes.tolist()
        areas = (detections.boxes[:, 2] * detections.boxes[:, 3]).tolist()
    else:
        assert detections.masks is not None
        name, shapes = "segmentation", detections.masks
        areas = [int(area) for area in rle.area(shapes)] if shapes else []
    columns = (detections.images.tolist(), detections.scores.tolist(), areas, shapes)
    return [
        {"id": number, "image_id": image, "category_id": 0, "score": score, "area": area, "iscrowd": 0, name: shape}
        for number, (image, score, area, shape) in enumerate(zip(*columns, strict=True), 1)
    ]


def _frequency(split: LabelledSplit, category: dict[str, Any]) -> str:
    """r, c or f: at most 10 training images, at most 100, more."""
    if category.get("frequency") in FREQUENCIES:
        return str(category["frequency"])
    if type(category.get("image_count")) is not int:
        raise InputError(
            f"{split.annotation_file}: category {category['name']} has neither frequency (r, c or f) nor image_count; "
            "APr, APc and APf need one of them"
        )
    return "r" if category["image_count"] <= 10 else "c" if category["image_count"] <= 100 else "f"


def _mean(values: np.ndarray) -> float | None:
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else None

"""COCO annotations of rendered scenes: masks as polygons or compressed RLE, boxes tight around them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from soco_core.demo_data.scene import NAMES, SceneObject

ENLARGED = 4
"""A contour runs through pixel centres; on a mask enlarged so often it errs by an eighth of a pixel only."""
POLYGON_TOLERANCE = 0.3
"""Pixels by which a polygon may deviate from the contour."""


def categories() -> list[dict[str, Any]]:
    """Return the ``categories`` of the annotation file; ids count from 1."""
    return [{"id": index + 1, "name": name, "supercategory": "shape"} for index, name in enumerate(NAMES)]


def annotation(item: SceneObject, number: int, image: int) -> dict[str, Any]:
    """Return the annotation of one object.

    Args:
        item: the object.
        number: id of the annotation.
        image: id of its image.
    """
    rows, columns = np.flatnonzero(item.mask.any(1)), np.flatnonzero(item.mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": item.category + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(item.mask.sum()),
        "iscrowd": 0,
        "segmentation": segmentation(item.mask),
    }


def segmentation(mask: NDArray[np.bool_]) -> list[list[float]] | dict[str, Any]:
    """Return a mask [H, W] as one polygon if it is one region without holes, else as compressed RLE."""
    import cv2
    from pycocotools import mask as rle

    large = mask.astype(np.uint8).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if len(contours) == 1:
        outline = cv2.approxPolyDP(contours[0], POLYGON_TOLERANCE * ENLARGED, True)[:, 0]
        if len(outline) >= 3:
            return [[round(float(value), 2) for value in ((outline + 0.5) / ENLARGED).ravel()]]
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode()}

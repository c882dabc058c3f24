"""One model of a labelled detection split, whatever format it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from soco_core import storage
from soco_core.artifacts.fingerprint import fingerprint
from soco_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Set

    import numpy as np

Format = Literal["coco", "voc", "lvis"]


@dataclass(frozen=True)
class LabelledSplit:
    """The images and annotations of one split.

    An image has ``id`` (a whole number), ``file_name`` (relative to `folder`), ``width`` and ``height`` in pixels; in
    LVIS also ``neg_category_ids`` and ``not_exhaustive_category_ids``. An annotation has ``id``, ``image_id``,
    ``category_id``, ``bbox`` ([x, y, width, height] in pixels, 0-based, x and y at the left upper corner of the first
    pixel), ``area``, ``iscrowd`` and ``difficult`` (0 or 1), and ``segmentation`` where there is one: VOC has none, and
    other formats need none for detectors of boxes.
    """

    format: Format
    annotation_file: str
    """The JSON file, or VOC's lists of images; a path or an S3 URI."""
    digest: str
    """SHA-256 of the annotations as they are stored, in hexadecimal."""
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    """Sorted by id; a category's position is its class (class 0 comes first)."""
    folder: str
    """Where the images lie; a path or an S3 URI."""
    sizes: tuple[int, ...]
    """Bytes of each image file, in the order of `images`."""
    subset: str = field(default="")
    """What part of the split it is; empty: all."""

    @cached_property
    def annotations_of(self) -> dict[int, list[dict[str, Any]]]:
        """Image id -> its annotations."""
        found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            found[annotation["image_id"]].append(annotation)
        return found

    @cached_property
    def class_of(self) -> dict[int, int]:
        """Category id -> class, counted from 0."""
        return {category["id"]: index for index, category in enumerate(self.categories)}

    @property
    def fingerprint(self) -> str:
        """Names the split by its annotations and by its images' names and sizes in bytes."""
        files = [[image["file_name"], size] for image, size in zip(self.images, self.sizes, strict=True)]
        return fingerprint({"annotations": self.digest, "images": files})

    def image_uri(self, image: dict[str, Any]) -> str:
        """Return where the file of an image lies: a path or an S3 URI."""
        return storage.join(self.folder, image["file_name"])

    def part(self, ids: Set[int], subset: str) -> LabelledSplit:
        """Return the part with the images of these ids; `subset` says how they were chosen."""
        chosen = [place for place, image in enumerate(self.images) if image["id"] in ids]
        return replace(
            self,
            images=[self.images[place] for place in chosen],
            sizes=tuple(self.sizes[place] for place in chosen),
            annotations=[item for item in self.annotations if item["image_id"] in ids],
            subset=subset,
        )

    def as_coco(self) -> dict[str, Any]:
        """Return the split in COCO's format, as other evaluators take it."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}


@dataclass(frozen=True)
class LabelledDataset:
    """What is trained on and what is evaluated on, over the same categories."""

    train: LabelledSplit
    val: LabelledSplit

    @property
    def fingerprint(self) -> str:
        """Names the data set."""
        return fingerprint([self.train.fingerprint, self.val.fingerprint])


def usable(annotation: dict[str, Any], masks: bool) -> bool:
    """Tell whether an annotation can be trained on: no crowd, with an area and, for detectors of masks, a mask.

    So does detectron2, which also trains on VOC's difficult objects. As there, an object without a mask serves
    detectors of boxes, and one that has polygons, of which none is valid, serves nobody.

    Args:
        annotation: one of a :class:`LabelledSplit`.
        masks: whether the detector learns masks.
    """
    if annotation["iscrowd"] or annotation["bbox"][2] <= 0 or annotation["bbox"][3] <= 0:
        return False
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return not masks
    return isinstance(segmentation, dict) or any(is_polygon(item) for item in segmentation)


def trainable_images(split: LabelledSplit, masks: bool) -> list[int]:
    """Return the positions of the images that have something to learn (:func:`usable`).

    Raises:
        InputError: there is none.
    """
    found = [
        position
        for position, image in enumerate(split.images)
        if any(usable(item, masks) for item in split.annotations_of[image["id"]])
    ]
    if not found:
        raise InputError(
            f"{split.annotation_file}: no image has an annotation to train on; add objects that are no crowds, with "
            "boxes of some area"
        )
    return found


def other_category(train: LabelledSplit, val: LabelledSplit) -> str:
    """Tell the first category, by its id, that two splits do not have alike; empty: they have the same."""
    here, there = ({item["id"]: item["name"] for item in split.categories} for split in (train, val))
    for number in sorted(here.keys() | there.keys()):
        if number not in here or number not in there:
            return f"category {number} ({here.get(number, there.get(number))!r}) is in one split only"
        if here[number] != there[number]:
            return f"category {number} is {there[number]!r}, and {here[number]!r} in the training split"
    return ""


def polygons(annotation: dict[str, Any]) -> list[np.ndarray]:
    """Return the valid polygons of an annotation, float64 [2 x corners] each, x and y alternating."""
    import numpy as np

    return [np.asarray(item, dtype=np.float64) for item in annotation["segmentation"] if is_polygon(item)]


def is_polygon(coordinates: list[float]) -> bool:
    """Tell whether a list of coordinates has the corners of a polygon: three at least, each with x and y."""
    return len(coordinates) >= 6 and len(coordinates) % 2 == 0

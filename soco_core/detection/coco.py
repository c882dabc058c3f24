"""A COCO-format data set on disk, checked as a whole before anything is computed on it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from soco_core.artifacts.fingerprint import file_sha256, fingerprint
from soco_core.artifacts.result import open_result
from soco_core.errors import InputError
from soco_core.storage import is_s3

if TYPE_CHECKING:
    import numpy as np

Split = Literal["train", "val"]
OVERHANG = 1.0
"""Pixels by which a box may reach beyond its image: COCO's own boxes do, by rounding."""
IMAGE_KEYS = ("id", "file_name", "width", "height")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
CATEGORY_KEYS = ("id", "name")


@dataclass(frozen=True)
class CocoSplit:
    """The images and annotations of one split, as the file has them."""

    annotation_file: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    """Sorted by id; a category's position is its class (class 0 comes first)."""
    folder: Path
    """Where the images lie."""
    sizes: tuple[int, ...]
    """Bytes of each image file, in the order of `images`."""

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
        """Names the split by its annotation file's contents and its images' names and sizes in bytes."""
        files = [[image["file_name"], size] for image, size in zip(self.images, self.sizes, strict=True)]
        return fingerprint({"annotations": file_sha256(self.annotation_file), "images": files})


@dataclass(frozen=True)
class CocoDataset:
    """Both splits, over the same categories."""

    train: CocoSplit
    val: CocoSplit

    @property
    def fingerprint(self) -> str:
        """Names the data set."""
        return fingerprint([self.train.fingerprint, self.val.fingerprint])


def open_coco(place: str) -> CocoDataset:
    """Open and check a COCO-format data set.

    Args:
        place: a folder that holds ``annotations/instances_{train,val}.json`` (or ``..._train2017.json``)
            and the images in ``images``, in ``train2017`` and ``val2017``, or in itself; or the S3 URI of a
            finished `demo_data` result.

    Raises:
        InputError: a folder or file is missing, is not COCO's format, or contradicts itself.
    """
    root = open_result(place, stage="demo_data").path if is_s3(place) else Path(place)
    if not root.is_dir():
        raise InputError(f"{place}: no such folder; --coco names a folder with annotations/ and images/")
    train, val = _open_split(root, "train"), _open_split(root, "val")
    if [item["id"] for item in train.categories] != [item["id"] for item in val.categories]:
        raise InputError(
            f"{val.annotation_file}: its categories are not those of {train.annotation_file.name}; "
            "both files must list the same category ids"
        )
    return CocoDataset(train, val)


def usable(annotation: dict[str, Any]) -> bool:
    """Tell whether an annotation can be trained on: no crowd, with an area and a mask (as detectron2)."""
    if annotation["iscrowd"] or annotation["bbox"][2] <= 0 or annotation["bbox"][3] <= 0:
        return False
    segmentation = annotation["segmentation"]
    return isinstance(segmentation, dict) or any(_is_polygon(item) for item in segmentation)


def polygons(annotation: dict[str, Any]) -> list[np.ndarray]:
    """Return the valid polygons of an annotation, float64 [2 x corners] each, x and y alternating."""
    import numpy as np

    return [np.asarray(item, dtype=np.float64) for item in annotation["segmentation"] if _is_polygon(item)]


def _is_polygon(coordinates: list[float]) -> bool:
    return len(coordinates) >= 6 and len(coordinates) % 2 == 0


def _open_split(root: Path, split: Split) -> CocoSplit:
    names = (f"instances_{split}.json", f"instances_{split}2017.json")
    found = [root / "annotations" / name for name in names if (root / "annotations" / name).is_file()]
    if not found:
        raise InputError(f"{root}: no annotations/{names[0]} (nor {names[1]}); the data set needs train and val")
    path = found[0]
    content = _read(path)
    images, annotations, categories = (content[key] for key in ("images", "annotations", "categories"))
    _check_keys(path, "images", images, IMAGE_KEYS)
    _check_keys(path, "annotations", annotations, ANNOTATION_KEYS)
    _check_keys(path, "categories", categories, CATEGORY_KEYS)
    if not images:
        raise InputError(f"{path}: images is empty")
    if not categories:
        raise InputError(f"{path}: categories is empty")
    by_id = _unique(path, "images", images)
    known = _unique(path, "categories", categories)
    _unique(path, "annotations", annotations)
    _check_sides(path, images)
    _check_references(path, annotations, "image_id", by_id, "images")
    _check_references(path, annotations, "category_id", known, "categories")
    _check_boxes(path, annotations, by_id)
    _check_masks(path, annotations)
    folder, sizes = _find_images(root, split, path, images)
    return CocoSplit(path, images, annotations, sorted(categories, key=lambda item: item["id"]), folder, sizes)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{path}: has no list {key!r}; it must be a COCO instances file")
    return content


def _check_keys(path: Path, field: str, items: list[Any], keys: tuple[str, ...]) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError(f"{path}: {field}[{index}] is not an object with {', '.join(keys)}")
        missing = [key for key in keys if key not in item]
        if missing:
            raise InputError(f"{path}: {field}[{index}] (id {item.get('id')}) has no {missing[0]!r}")


def _unique(path: Path, field: str, items: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for item in items:
        number = item["id"]
        if not isinstance(number, int):
            raise InputError(f"{path}: {field}: id {number!r} is not a whole number")
        if number in by_id:
            raise InputError(f"{path}: {field}: id {number} appears twice")
        by_id[number] = item
    return by_id


def _check_sides(path: Path, images: list[dict[str, Any]]) -> None:
    for image in images:
        for side in ("width", "height"):
            if not isinstance(image[side], int) or image[side] <= 0:
                raise InputError(f"{path}: image {image['id']}: {side} {image[side]!r} is not a positive whole number")


def _check_references(
    path: Path, annotations: list[dict[str, Any]], key: str, known: dict[int, Any], field: str
) -> None:
    wrong = [annotation for annotation in annotations if annotation[key] not in known]
    if wrong:
        raise InputError(
            f"{path}: annotation {wrong[0]['id']}: {key} {wrong[0][key]!r} is not in {field}{_in_all(len(wrong))}"
        )


def _check_boxes(path: Path, annotations: list[dict[str, Any]], images: dict[int, dict[str, Any]]) -> None:
    def is_box(annotation: dict[str, Any]) -> bool:
        box = annotation["bbox"]
        return (
            isinstance(box, list)
            and len(box) == 4
            and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
        )

    _refuse(path, annotations, is_box, lambda item: f"bbox {item['bbox']!r} is not [x, y, width, height]")

    def inside(annotation: dict[str, Any]) -> bool:
        x, y, width, height = annotation["bbox"]
        image = images[annotation["image_id"]]
        return bool(
            min(x, y) >= -OVERHANG
            and x + width <= image["width"] + OVERHANG
            and y + height <= image["height"] + OVERHANG
        )

    def describe(annotation: dict[str, Any]) -> str:
        image = images[annotation["image_id"]]
        return (
            f"bbox {annotation['bbox']} lies outside its image {image['file_name']} "
            f"({image['width']}x{image['height']}); COCO boxes are [x, y, width, height] in pixels"
        )

    # COCO train2017 itself holds two boxes of height 0: these are left out, negative sides are an error.
    _refuse(
        path,
        annotations,
        lambda item: min(item["bbox"][2:]) >= 0,
        lambda item: f"bbox {item['bbox']} has a negative side; COCO boxes are [x, y, width, height] in pixels",
    )
    _refuse(path, annotations, inside, describe)


def _check_masks(path: Path, annotations: list[dict[str, Any]]) -> None:
    def is_mask(annotation: dict[str, Any]) -> bool:
        mask = annotation["segmentation"]
        if isinstance(mask, dict):
            return "size" in mask and "counts" in mask
        return isinstance(mask, list) and all(isinstance(item, list) for item in mask)

    _refuse(path, annotations, is_mask, lambda item: "segmentation is neither a list of polygons nor RLE")


def _refuse(
    path: Path,
    annotations: list[dict[str, Any]],
    fine: Callable[[dict[str, Any]], bool],
    describe: Callable[[dict[str, Any]], str],
) -> None:
    wrong = [annotation for annotation in annotations if not fine(annotation)]
    if wrong:
        raise InputError(f"{path}: annotation {wrong[0]['id']}: {describe(wrong[0])}{_in_all(len(wrong))}")


def _in_all(count: int) -> str:
    return f" ({count} such annotations)" if count > 1 else ""


def _find_images(root: Path, split: Split, path: Path, images: list[dict[str, Any]]) -> tuple[Path, tuple[int, ...]]:
    candidates = [root / "images", root / f"{split}2017", root]
    first = images[0]["file_name"]
    folder = next((place for place in candidates if (place / first).is_file()), None)
    if folder is None:
        places = ", ".join(str(place) for place in candidates)
        raise InputError(f"{path}: image {first} is in none of {places}")
    sizes, missing = [], []
    for image in images:
        try:
            sizes.append((folder / image["file_name"]).stat().st_size)
        except OSError:
            missing.append(image["file_name"])
    if missing:
        raise InputError(f"{path}: image {missing[0]} is not in {folder} ({len(missing)} of {len(images)} are missing)")
    return folder, tuple(sizes)

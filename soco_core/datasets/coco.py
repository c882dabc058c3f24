"""COCO's format, and LVIS's, which is COCO's with federated annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from posixpath import normpath
from typing import Any, Literal

from soco_core import storage
from soco_core.datasets.files import Follow, find_images, open_root, quietly, read_json
from soco_core.datasets.findings import Findings, Rule
from soco_core.datasets.lvis import lvis_category_problems, lvis_image_name, lvis_image_problems, note_federated
from soco_core.datasets.rules import (
    BOXES_ALONE,
    CROWD,
    EMPTY_IMAGE,
    NO_POLYGON,
    RLE_OBJECT,
    UNMASKED,
    Problem,
    box_problems,
    is_number,
    mask_problems,
    name_problems,
    short,
)
from soco_core.datasets.split import LabelledSplit
from soco_core.errors import InputError

JsonFormat = Literal["coco", "lvis"]
IMAGE_KEYS = {
    "coco": ("id", "file_name", "width", "height"),
    "lvis": ("id", "width", "height", "neg_category_ids", "not_exhaustive_category_ids"),
}
ANNOTATION_KEYS = {
    "coco": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "lvis": ("id", "image_id", "category_id", "bbox", "area"),
}
CATEGORY_KEYS = {"coco": ("id", "name"), "lvis": ("id", "name", "frequency")}

NO_OBJECT = Rule("error", "entry that is no object", "each entry is a JSON object", "entries")
NO_KEY = Rule("error", "missing key", "add it; the file must be whole", "entries")
BAD_ID = Rule("error", "id that is no whole number", "ids are whole numbers", "entries")
SAME_ID = Rule("error", "id that appears twice", "number the entries anew", "entries")
SAME_NAME = Rule("error", "category name that appears twice", "name each category once", "categories")
BAD_NAME = Rule("error", "category without a name", "a name is a text", "categories")
BAD_SIDE = Rule("error", "image without a size", "width and height are positive whole numbers of pixels", "images")
SAME_FILE = Rule("warning", "image file listed twice", "list it once, with all its annotations", "images")
UNKNOWN_IMAGE = Rule("error", "annotation of an unknown image", "add the image, or remove the annotation")
UNKNOWN_CATEGORY = Rule("error", "annotation of an unknown category", "add the category, or correct the annotation")
BAD_AREA = Rule("error", "area that is no number from 0 on", "write the mask's area in pixels")
BAD_CROWD = Rule("error", "iscrowd that is neither 0 nor 1", "write 0 or 1")


def read_json_split(
    place: str,
    names: tuple[str, ...],
    folders: tuple[str, ...],
    kind: JsonFormat,
    findings: Findings,
    images: str = "",
    follow: Follow = quietly,
) -> LabelledSplit:
    """Read one split of a COCO or LVIS data set; entries that are wrong are left out and added to `findings`.

    Args:
        place: the root, a folder or an S3 URI.
        names: paths of the annotation file below it; the first that is there is taken.
        folders: below the root of the images; the first that holds the first image is taken.
        kind: COCO or LVIS.
        findings: gets what is wrong.
        images: the root of the images, if it is not `place`.
        follow: goes through the lists.

    Raises:
        InputError: there is no such file, or it is not of this format at all.
    """
    tree = open_root(place)
    there = [name for name in names if not tree.missing([name])]
    if not there:
        others = f" (nor {names[1]})" if len(names) > 1 else ""
        raise InputError(f"{place}: no {names[0]}{others}; put the annotations there, or give another folder")
    file = storage.join(tree.root, there[0])
    content, digest = read_json(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{file}: has no list {key!r}; it must be an instances file of {kind.upper()}")
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{file}: {key} is empty; take a file that lists its {key}")
    reading = _Reading(file, kind, content, findings, follow)
    records = reading.images()
    categories = reading.categories()
    annotations = reading.annotations(records, categories)
    image_names = [image["file_name"] for image in records]
    folder, sizes = find_images(open_root(images) if images else tree, folders, image_names, file, findings, follow)
    reading.note(records, annotations)
    kept = [place for place, size in enumerate(sizes) if size is not None]
    by_id = {records[place]["id"] for place in kept}
    if len(kept) < len(records):
        annotations = [item for item in annotations if item["image_id"] in by_id]
    return LabelledSplit(
        format=kind,
        annotation_file=file,
        digest=digest,
        images=[records[place] for place in kept],
        annotations=annotations,
        categories=sorted(categories, key=lambda item: item["id"]),
        folder=folder,
        sizes=tuple(size for size in sizes if size is not None),
    )


class _Reading:
    """Goes through one annotation file."""

    def __init__(
        self, file: str, kind: JsonFormat, content: dict[str, Any], findings: Findings, follow: Follow
    ) -> None:
        self.file = file
        self.kind = kind
        self.content = content
        self.findings = findings
        self.follow = follow

    def images(self) -> list[dict[str, Any]]:
        """Return the images that are as they should be."""
        names: set[str] = set()
        categories = self.declared("categories")

        def problems(image: dict[str, Any]) -> Iterator[Problem]:
            for side in ("width", "height"):
                if type(image[side]) is not int or not 0 < image[side] < 2**31:
                    yield BAD_SIDE, side, f"{short(image[side])} is not a positive whole number"
                    return
            if self.kind == "lvis":
                yield from lvis_image_problems(image, categories)
                name = lvis_image_name(image)
            else:
                name = image["file_name"]
            wrong = next(name_problems(name), None)
            if wrong:
                yield wrong
                return
            assert isinstance(name, str)
            name = normpath(name)
            if name in names:
                yield SAME_FILE, "file_name", f"{name} is listed before"
            names.add(name)

        kept = self._kept("images", IMAGE_KEYS[self.kind], problems)
        for image in kept:
            if self.kind == "lvis":
                image["file_name"] = lvis_image_name(image)
            # A store knows no `./1.jpg`.
            image["file_name"] = normpath(image["file_name"])
        return kept

    def categories(self) -> list[dict[str, Any]]:
        """Return the categories that are as they should be."""
        names: set[str] = set()

        def problems(category: dict[str, Any]) -> Iterator[Problem]:
            name = category["name"]
            if not isinstance(name, str) or not name.strip():
                yield BAD_NAME, "name", f"{short(name)} is not a name"
                return
            if name in names:
                yield SAME_NAME, "name", f"{name} is the name of a category before"
            names.add(name)
            if self.kind == "lvis":
                yield from lvis_category_problems(category)

        return self._kept("categories", CATEGORY_KEYS[self.kind], problems)

    def annotations(self, images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the annotations that are as they should be, of such images and categories."""
        by_id = {image["id"]: image for image in images}
        known = {category["id"] for category in categories}
        # What is said of an image or a category is not said again of each of its annotations.
        declared, declared_categories = self.declared("images"), self.declared("categories")

        def problems(annotation: dict[str, Any]) -> Iterator[Problem]:
            image, category = annotation["image_id"], annotation["category_id"]
            if type(image) is not int or image not in declared:
                yield UNKNOWN_IMAGE, "image_id", f"{short(image)} is not in images"
                return
            if type(category) is not int or category not in declared_categories:
                yield UNKNOWN_CATEGORY, "category_id", f"{short(category)} is not in categories"
                return
            if not is_number(annotation["area"]) or annotation["area"] < 0:
                yield BAD_AREA, "area", f"{short(annotation['area'])} is not a number from 0 on"
            if annotation.get("iscrowd", 0) not in (0, 1):
                yield BAD_CROWD, "iscrowd", f"{short(annotation['iscrowd'])} is neither 0 nor 1"
            if image in by_id:
                size = by_id[image]["width"], by_id[image]["height"]
                yield from box_problems(annotation["bbox"], *size)
                if annotation.get("segmentation") is not None:
                    yield from mask_problems(annotation["segmentation"], *size)

        kept = self._kept("annotations", ANNOTATION_KEYS[self.kind], problems)
        kept = [item for item in kept if item["image_id"] in by_id and item["category_id"] in known]
        for item in kept:
            item["iscrowd"] = int(item.get("iscrowd", 0))
            item["difficult"] = 0
            if item.get("segmentation", ()) is None:
                del item["segmentation"]
        return kept

    def declared(self, field: str) -> set[int]:
        """Return the ids of all entries of a list, right or wrong."""
        return {item["id"] for item in self.content[field] if isinstance(item, dict) and type(item.get("id")) is int}

    def note(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
        """Add what is no fault, but good to know."""
        filled = {item["image_id"] for item in annotations}
        for image in images:
            if image["id"] not in filled:
                self.findings.add(EMPTY_IMAGE, self.file, f"image of id {image['id']}, {image['file_name']}")
        objects = [item for item in annotations if not item["iscrowd"]]
        masked = any(item.get("segmentation") for item in objects)
        if objects and not masked:
            self.findings.add(BOXES_ALONE, self.file, f"{len(objects):,} objects have boxes alone")
        for item in annotations:
            shown = f"annotation of id {item['id']}"
            if item["iscrowd"]:
                self.findings.add(CROWD, self.file, shown)
            elif masked and "segmentation" not in item:
                self.findings.add(UNMASKED, self.file, shown)
            elif masked and not item["segmentation"]:
                self.findings.add(NO_POLYGON, self.file, f"{shown} has an empty list as its segmentation")
            elif isinstance(item.get("segmentation"), dict):
                self.findings.add(RLE_OBJECT, self.file, shown)
        if self.kind == "lvis":
            note_federated(self.file, images, annotations, self.findings)

    def _kept(
        self, field: str, keys: tuple[str, ...], problems: Callable[[dict[str, Any]], Iterator[Problem]]
    ) -> list[dict[str, Any]]:
        seen: set[int] = set()
        kept = []
        for index, item in enumerate(self.follow(f"{self.file.rpartition('/')[2]}: {field}", self.content[field])):
            fine = True
            for rule, key, text in self._problems(item, keys, seen, problems):
                number = f" (id {item['id']})" if isinstance(item, dict) and type(item.get("id")) is int else ""
                below = f".{key}" if key else ""
                self.findings.add(rule, self.file, f"{field}[{index}]{below}{number}: {text}")
                if rule.severity == "error":
                    fine = False
                    break
            if fine:
                kept.append(item)
        return kept

    @staticmethod
    def _problems(
        item: Any, keys: tuple[str, ...], seen: set[int], problems: Callable[[dict[str, Any]], Iterator[Problem]]
    ) -> Iterator[Problem]:
        if not isinstance(item, dict):
            yield NO_OBJECT, "", f"{short(item)} is not an object with {', '.join(keys)}"
            return
        missing = [key for key in keys if key not in item]
        if missing:
            yield NO_KEY, "", f"has no {missing[0]!r}"
        elif type(item["id"]) is not int:
            yield BAD_ID, "id", f"{short(item['id'])} is not a whole number"
        elif item["id"] in seen:
            yield SAME_ID, "id", f"{item['id']} appears twice"
        else:
            seen.add(item["id"])
            yield from problems(item)

"""Pascal VOC: lists of images by split and year, and one XML file an image with 1-based inclusive boxes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from xml.etree.ElementTree import Element

from soco_core import storage
from soco_core.datasets.files import Follow, image_sizes, open_root, quietly
from soco_core.datasets.findings import Findings, Rule
from soco_core.datasets.rules import DIFFICULT, EMPTY_IMAGE, box_problems, is_safe_name, short
from soco_core.datasets.split import LabelledSplit
from soco_core.datasets.xml_file import parse_xml
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError
from soco_core.images.layouts import VOC_FOLDERS
from soco_core.images.sources import read_each
from soco_core.images.trees import Tree

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's 20 classes, as detectron2 orders them; their category ids count from 1."""
LISTS = "ImageSets/Main"

BAD_XML = Rule("error", "annotation file that cannot be read", "restore it from the archive", "files")
NOT_VOC = Rule("error", "XML that is not VOC's", "the root element is `annotation`", "files")
BAD_NAME = Rule("error", "list entry that is no image", "a line begins with an image's name, without .jpg", "lines")
SAME_NAME = Rule("error", "image listed twice", "list it once", "lines")
NO_ELEMENT = Rule("error", "missing element", "add it; the file must be whole", "elements")
BAD_NUMBER = Rule("error", "element that is no number", "write a number", "elements")
BAD_SIZE = Rule("error", "image without a size", "width and height are positive whole numbers of pixels", "images")
UNKNOWN_CLASS = Rule("error", "object of an unknown class", "VOC's 20 classes are known; correct the name", "objects")
BAD_DIFFICULT = Rule("error", "difficult that is neither 0 nor 1", "write 0 or 1", "objects")
BACKWARDS = Rule("error", "box whose end lies before its beginning", "xmin <= xmax and ymin <= ymax", "objects")


class _WrongElementError(Exception):
    def __init__(self, rule: Rule, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass
class _Records:
    """What was read so far."""

    file: str = ""
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)


def read_voc_split(
    place: str,
    split: str,
    findings: Findings,
    years: tuple[str, ...] = ("VOC2007", "VOC2012"),
    follow: Follow = quietly,
) -> LabelledSplit:
    """Read a split over all years that have it; what is wrong is left out and added to `findings`.

    A box [xmin, ymin, xmax, ymax] of VOC, which counts pixels from 1 and includes the last, becomes
    [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1], as in detectron2.

    Args:
        place: the root, a folder or an S3 URI: it holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``, or
            ``VOC2007`` and ``VOC2012`` (also in ``VOCdevkit``) that do.
        split: ``trainval`` or ``test``, say.
        findings: gets what is wrong.
        years: those to take; a root without years counts as one of them.
        follow: goes through the lists.

    Raises:
        InputError: it is not VOC's layout, or has no such split.
    """
    tree = open_root(place)
    folders = [name for name in VOC_FOLDERS if _is_year(name, years) and tree.has_folder(f"{name}{LISTS}")]
    lists = [name for name in folders if f"{split}.txt" in tree.files(f"{name}{LISTS}")]
    if not lists:
        looked = ", ".join(f"{name}{LISTS}/{split}.txt" for name in folders or ("", *(f"{year}/" for year in years)))
        raise InputError(f"{place}: no split {split} of VOC ({looked}); give the folder that holds it")
    names = [name for folder in lists for name in _listed(tree, folder, split, findings)]
    if not names:
        raise InputError(f"{place}: {lists[0]}{LISTS}/{split}.txt lists no image; restore the file")
    files = [f"{folder}Annotations/{stem}.xml" for folder, stem in names]
    records, digest = _Records(), hashlib.sha256()
    contents = read_each(_source(tree.root), files)
    for (folder, stem), (file, data) in zip(follow(f"VOC {split}", names), contents, strict=True):
        records.file = storage.join(tree.root, file)
        if isinstance(data, BadImageError):
            findings.add(BAD_XML, records.file, str(data))
            continue
        digest.update(f"{file}\n{len(data)}\n".encode() + data)
        _read_file(data, f"{folder}JPEGImages/{stem}.jpg", records, findings)
    listed = ", ".join(storage.join(tree.root, f"{folder}{LISTS}/{split}.txt") for folder in lists)
    sizes = image_sizes(tree, "", [image["file_name"] for image in records.images], listed, findings, follow)
    there = {image["id"] for image, size in zip(records.images, sizes, strict=True) if size is not None}
    return LabelledSplit(
        format="voc",
        annotation_file=listed,
        digest=digest.hexdigest(),
        images=[image for image in records.images if image["id"] in there],
        annotations=[item for item in records.annotations if item["image_id"] in there],
        categories=[{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
        folder=tree.root,
        sizes=tuple(size for size in sizes if size is not None),
    )


def _source(root: str) -> Any:
    from soco_core.images.sources import FolderSource, S3Source

    return S3Source(root) if storage.is_s3(root) else FolderSource(root)


def _is_year(folder: str, years: tuple[str, ...]) -> bool:
    return not folder or folder.rstrip("/").rpartition("/")[2] in years


def _listed(tree: Tree, folder: str, split: str, findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield (folder of the year, name without ending) of each image of a list."""
    uri = storage.join(tree.root, f"{folder}{LISTS}/{split}.txt")
    seen: set[str] = set()
    for number, line in enumerate(storage.read_text(uri).splitlines(), 1):
        if not line.strip():
            continue
        name = line.split()[0]
        if not is_safe_name(name) or "/" in name:
            findings.add(BAD_NAME, uri, f"line {number}: {short(name)} is not an image's name")
        elif name in seen:
            findings.add(SAME_NAME, uri, f"line {number}: {name} is listed before")
        else:
            seen.add(name)
            yield folder, name


def _read_file(data: bytes, image_file: str, records: _Records, findings: Findings) -> None:
    try:
        root = parse_xml(data, records.file)
    except InputError as error:
        findings.add(BAD_XML, records.file, str(error).removeprefix(f"{records.file}: ").rpartition(";")[0])
        return
    try:
        if root.tag != "annotation":
            raise _WrongElementError(NOT_VOC, f"the root element is {short(root.tag)}")
        width, height = (_number(root, f"size/{side}", "annotation", whole=True) for side in ("width", "height"))
        if width <= 0 or height <= 0:
            raise _WrongElementError(BAD_SIZE, f"annotation/size: {width:g}x{height:g} is not the size of an image")
    except _WrongElementError as error:
        findings.add(error.rule, records.file, str(error))
        return
    image = {"id": len(records.images) + 1, "file_name": image_file, "width": int(width), "height": int(height)}
    records.images.append(image)
    before = len(records.annotations)
    for index, item in enumerate(root.findall("object"), 1):
        try:
            annotation = _read_object(item, f"annotation/object[{index}]", image, findings, records.file)
        except _WrongElementError as error:
            findings.add(error.rule, records.file, str(error))
            continue
        if annotation is not None:
            records.annotations.append({"id": len(records.annotations) + 1, "image_id": image["id"], **annotation})
            if annotation["difficult"]:
                findings.add(DIFFICULT, records.file, f"annotation/object[{index}]")
    if len(records.annotations) == before:
        findings.add(EMPTY_IMAGE, records.file, "has no object")


def _read_object(
    item: Element, path: str, image: dict[str, Any], findings: Findings, file: str
) -> dict[str, Any] | None:
    """Return an object as an annotation without ids, None if its box is wrong."""
    name = _text(item, "name", path)
    if name not in CLASSES:
        near = get_close_matches(name.lower().replace(" ", ""), CLASSES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise _WrongElementError(UNKNOWN_CLASS, f"{path}/name: {short(name)} is not a class of VOC{hint}")
    difficult = (item.findtext("difficult") or "0").strip()
    if difficult not in {"0", "1"}:
        raise _WrongElementError(BAD_DIFFICULT, f"{path}/difficult: {short(difficult)}")
    # VOC2012 has a few coordinates with decimals.
    left, top, right, bottom = (
        _number(item, f"bndbox/{side}", path, whole=False) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if right < left or bottom < top:
        shown = f"xmin {left:g}, ymin {top:g}, xmax {right:g}, ymax {bottom:g}"
        raise _WrongElementError(BACKWARDS, f"{path}/bndbox: {shown}")
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    wrong = list(box_problems(box, image["width"], image["height"]))
    for rule, _, text in wrong:
        findings.add(rule, file, f"{path}/bndbox: {text} (0-based)")
    if wrong:
        return None
    return {
        "category_id": CLASSES.index(name) + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
        "difficult": int(difficult),
    }


def _text(element: Element, name: str, path: str) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise _WrongElementError(NO_ELEMENT, f"{path}/{name} is missing or empty")
    return text


def _number(element: Element, name: str, path: str, whole: bool) -> float:
    text = _text(element, name, path)
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) >= 2**31:
        raise _WrongElementError(BAD_NUMBER, f"{path}/{name}: {short(text)} is not a {'whole ' if whole else ''}number")
    return value

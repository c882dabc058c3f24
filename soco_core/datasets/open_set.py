"""Where a data set lies, and reading it by its name or from its folder."""

from __future__ import annotations

import os
from typing import Literal

from soco_core import storage
from soco_core.config import DatasetsConfig
from soco_core.datasets.coco import JsonFormat, read_json_split
from soco_core.datasets.files import Follow, open_root, quietly
from soco_core.datasets.findings import Findings
from soco_core.datasets.published import NAMED, Kind, Named, Root, named
from soco_core.datasets.split import LabelledDataset, LabelledSplit, other_category
from soco_core.datasets.subsets import take_part
from soco_core.datasets.voc import read_voc_split
from soco_core.errors import InputError
from soco_core.images.layouts import is_coco, is_voc

ENVIRONMENT = "SOCO_DATA"
"""A root (a folder or an S3 URI) that holds coco/, voc/, lvis/ and imagenet/."""
COCO_FOLDERS = {"train": ("images", "train2017", ""), "val": ("images", "val2017", "")}
VOC_SPLITS = {"train": "trainval", "val": "test"}
Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")


def locate(root: Root, config: DatasetsConfig, data: str | None = None) -> str:
    """Return where a data set lies.

    Args:
        root: which one.
        config: the recipe's section.
        data: goes before the recipe: a folder of data sets as SOCO_DATA names one, or the data set's own folder.

    Raises:
        InputError: nobody says.
    """
    if data:
        below = storage.join(data, root)
        return below if is_folder(below) else data
    place = getattr(config, root)
    if place:
        return str(place)
    if os.environ.get(ENVIRONMENT):
        return storage.join(os.environ[ENVIRONMENT], root)
    raise InputError(
        f"nobody says where {root} lies; give --data DIR, set datasets.{root} in the recipe, or set {ENVIRONMENT} to a "
        f"folder that holds {root}/"
    )


def is_place(name: str) -> bool:
    """Tell whether what was asked for is a folder or a URI, not a name; a folder ``imagenet`` is ``./imagenet``."""
    return all(item.name != name for item in NAMED) and ("/" in name or os.path.exists(name))


def images_of_lvis(place: str, config: DatasetsConfig, data: str | None = None) -> str:
    """Return the root of LVIS's images: its own, if it has train2017 or val2017, else COCO's."""
    if any(is_folder(storage.join(place, folder)) for folder in ("train2017", "val2017")):
        return place
    return locate("coco", config, data)


def kind_of(place: str) -> Kind:
    """Tell the format of a folder.

    Raises:
        InputError: there is no such folder.
    """
    tree = open_root(place)
    if any(name.startswith("lvis_v1") for folder in ("", "annotations") for name in tree.files(folder)):
        return "lvis"
    if is_voc(tree):
        return "voc"
    return "coco" if is_coco(tree) else "labels"


def read_part(
    place: str, kind: Kind, part: Part, findings: Findings, images: str = "", follow: Follow = quietly
) -> LabelledSplit:
    """Read what is trained on (``train``) or evaluated on (``val``); faults go to `findings`.

    Raises:
        InputError: it cannot be read at all.
    """
    if kind == "voc":
        # VOC2012's test annotations were never published.
        years = ("VOC2007", "VOC2012") if part == "train" else ("VOC2007",)
        return read_voc_split(place, VOC_SPLITS[part], findings, years, follow)
    if kind == "lvis":
        names: tuple[str, ...] = (f"lvis_v1_{part}.json", f"annotations/lvis_v1_{part}.json")
        folders: tuple[str, ...] = ("",)
    else:
        names = (f"annotations/instances_{part}.json", f"annotations/instances_{part}2017.json")
        folders = COCO_FOLDERS[part]
    form: JsonFormat = "lvis" if kind == "lvis" else "coco"
    return read_json_split(place, names, folders, form, findings, images, follow)


def open_dataset(place: str, kind: Kind, images: str = "") -> LabelledDataset:
    """Open both parts of a data set in a folder, or an S3 prefix, and check their annotations.

    Raises:
        InputError: something is missing, is not of this format, or contradicts itself: the first error, in one line.
    """
    parts = []
    for part in PARTS:
        findings = Findings()
        parts.append(read_part(place, kind, part, findings, images))
        findings.raise_first_error()
    train, val = parts
    odd = other_category(train, val)
    if odd:
        other = train.annotation_file.rpartition("/")[2]
        raise InputError(
            f"{val.annotation_file}: its categories are not those of {other}: {odd}; "
            "both files must list the same ids and names"
        )
    return LabelledDataset(train, val)


def open_named(name: str, config: DatasetsConfig, data: str | None = None) -> LabelledDataset:
    """Open a labelled detection data set by its name, or take its folder as `name`.

    Raises:
        InputError: there is no such data set, nobody says where it lies, or it is not what it should be; a list of
            images is given, and it takes none.
    """
    if is_place(name):
        check_list(None, config)
        kind = kind_of(name)
        if kind == "labels":
            raise InputError(f"{name}: neither COCO's, VOC's nor LVIS's layout; docs/datasets.md shows them")
        return open_dataset(name, kind, images_of_lvis(name, config, data) if kind == "lvis" else "")
    item = named(name)
    if item.kind in {"images", "labels"}:
        raise InputError(f"{name}: has no boxes; a detector takes COCO, VOC or LVIS")
    check_list(item, config)
    place = locate(item.root, config, data)
    opened = open_dataset(place, item.kind, images_of_lvis(place, config, data) if item.kind == "lvis" else "")
    return LabelledDataset(taken(item, opened.train, config), opened.val)


def check_list(item: Named | None, config: DatasetsConfig) -> None:
    """Refuse a list of images (``datasets.image_ids``) for a data set that would not be read by it.

    Args:
        item: the data set; None: a folder, which is taken as a whole.
        config: the recipe's section.

    Raises:
        InputError: a list is given, and the data set is no part of another.
    """
    if config.image_ids and not (item and item.share):
        parts = [each.name for each in NAMED if each.share and each.kind == "coco"]
        raise InputError(
            f"datasets.image_ids: only {', '.join(parts[:-1])} and {parts[-1]} take a list; remove it, or take one of "
            "them by its name"
        )


def taken(item: Named, split: LabelledSplit, config: DatasetsConfig) -> LabelledSplit:
    """Return the part of the training split that a name means."""
    return take_part(split, item.share, config.image_ids) if item.share else split


def is_folder(place: str) -> bool:
    """Tell whether there is a local folder, or anything below an S3 URI."""
    if storage.is_s3(place):
        return next(storage.list_objects(place), None) is not None
    return os.path.isdir(place)

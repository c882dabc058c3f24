"""Which files of a tree are the images of a set: all of them, or the splits of COCO or VOC."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterable, Iterator

from soco_core import storage
from soco_core.errors import InputError
from soco_core.images.trees import IMAGE_SUFFIXES, Tree

COCO_DEFAULTS = ("train2017", "unlabeled2017", "train", "unlabeled")
"""What Table 9 pretrains on, under the names of COCO itself and of sets in its layout."""
COCO_FOLDERS = ("train2017", "unlabeled2017")
"""A folder of such a name can only be COCO's; `train` may be ImageNet's."""
VOC_DEFAULTS = ("trainval",)
VOC_FOLDERS = ("", "VOC2007/", "VOC2012/", "VOCdevkit/VOC2007/", "VOCdevkit/VOC2012/")

_ANNOTATIONS = re.compile(r"(?:instances|image_info)_(.+)\.json")

Found = tuple[tuple[str, ...], tuple[str, ...]]
"""Splits, and the ids of their images, sorted."""


def every_image(tree: Tree) -> Found:
    """Take every image file.

    Raises:
        InputError: there is none.
    """
    ids = tuple(sorted(tree.images("")))
    if not ids:
        suffixes = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise InputError(
            f"image folder {tree.root} holds no image file ({suffixes}); put images there or give another folder"
        )
    return (), ids


def is_coco(tree: Tree) -> bool:
    """Tell whether a tree can only be COCO's."""
    return bool(_annotated(tree)) or any(_coco_folder(tree, split) for split in COCO_FOLDERS)


def coco_images(tree: Tree, splits: tuple[str, ...]) -> Found:
    """Take the images of COCO's splits.

    A split S is the folder ``S`` or ``images/S``; or else what ``annotations/instances_S.json`` (or
    ``image_info_S.json``) names, in ``images`` or in the root.

    Args:
        tree: the data set.
        splits: empty: those of COCO_DEFAULTS that are there.

    Raises:
        InputError: a split, or an image that it names, is missing, or there is no image.
    """
    annotated = _annotated(tree)
    there = [split for split in COCO_DEFAULTS if split in annotated or _coco_folder(tree, split)]
    if not (splits or there):
        others = f" (annotations/ has {', '.join(sorted(annotated))})" if annotated else ""
        raise InputError(
            f"{tree.root}: none of COCO's splits {', '.join(COCO_DEFAULTS)} is there{others}; name the splits with "
            "--set images.splits=[...], or take every image file with --set images.layout=folder"
        )
    ids: set[str] = set()
    for split in splits or there:
        folder = _coco_folder(tree, split)
        if folder is None and split not in annotated:
            raise InputError(
                f"{tree.root}: no split {split} of COCO: neither a folder {split} or images/{split}, nor "
                f"annotations/instances_{split}.json; correct images.splits"
            )
        found = set(tree.images(folder) if folder is not None else _annotated_images(tree, annotated[split]))
        if not found:
            raise InputError(
                f"{storage.join(tree.root, folder or annotated[split])}: the split {split} holds no image; correct "
                "images.splits, or add its images"
            )
        ids |= found
    return tuple(splits or there), tuple(sorted(ids))


def is_voc(tree: Tree) -> bool:
    """Tell whether a tree is VOC's."""
    return bool(_voc_folders(tree))


def voc_images(tree: Tree, splits: tuple[str, ...]) -> Found:
    """Take the images of VOC's splits, over all years that are there.

    A year has ``JPEGImages`` and ``ImageSets/Main/S.txt``; it is the root, or ``VOC2007`` or ``VOC2012`` in it or in
    its ``VOCdevkit``. A split must be there in one of the years.

    Args:
        tree: the data set.
        splits: empty: trainval.

    Raises:
        InputError: a split, or an image that it names, is missing, or there is no image.
    """
    folders = _voc_folders(tree)
    if not folders:
        raise InputError(
            f"{tree.root}: not VOC's layout (JPEGImages/ and ImageSets/Main/, there or in VOC2007/ and VOC2012/); "
            "correct --images or images.layout"
        )
    ids: set[str] = set()
    for split in splits or VOC_DEFAULTS:
        lists = [folder for folder in folders if f"{split}.txt" in tree.files(f"{folder}ImageSets/Main")]
        if not lists:
            places = ", ".join(f"{folder}ImageSets/Main/{split}.txt" for folder in folders)
            raise InputError(f"{tree.root}: no split {split} of VOC ({places}); correct images.splits")
        found: set[str] = set()
        for folder in lists:
            name = f"{folder}ImageSets/Main/{split}.txt"
            text = storage.read_text(storage.join(tree.root, name))
            stems = [line.strip() for line in text.splitlines() if line.strip()]
            found |= _there(tree, name, [f"{folder}JPEGImages/{stem}.jpg" for stem in stems])
        if not found:
            raise InputError(f"{tree.root}: the split {split} holds no image; correct images.splits, or its list")
        ids |= found
    return tuple(splits or VOC_DEFAULTS), tuple(sorted(ids))


def _annotated(tree: Tree) -> dict[str, str]:
    """Return the annotation file of each split that has one."""
    matches = (_ANNOTATIONS.fullmatch(name) for name in tree.files("annotations"))
    # `instances` sorts behind `image_info`, and is taken where there are both.
    return {match[1]: f"annotations/{match[0]}" for match in matches if match}


def _voc_folders(tree: Tree) -> list[str]:
    """Return the folders of the years that are there, each with its slash; ``""`` is the root."""
    return [
        folder
        for folder in VOC_FOLDERS
        if tree.has_folder(f"{folder}JPEGImages") and tree.has_folder(f"{folder}ImageSets/Main")
    ]


def _coco_folder(tree: Tree, split: str) -> str | None:
    return next((folder for folder in (split, f"images/{split}") if tree.has_folder(folder)), None)


def _annotated_images(tree: Tree, file: str) -> set[str]:
    names = list(_file_names(storage.join(tree.root, file)))
    folder = "images/"
    if names and tree.missing([folder + names[0]]):
        folder = ""
    return _there(tree, file, [folder + name for name in names])


def _file_names(uri: str) -> Iterator[str]:
    """Yield the names of the images of an annotation file, which may be half a gigabyte."""
    import ijson

    try:
        with io.BytesIO(storage.read_bytes(uri)) if storage.is_s3(uri) else open(uri, "rb") as file:
            for number, image in enumerate(ijson.items(file, "images.item")):
                name = image.get("file_name") if isinstance(image, dict) else None
                if not isinstance(name, str):
                    raise InputError(f"{uri}: images[{number}] has no file_name; this is not COCO's format")
                yield posixpath.normpath(name)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: not JSON ({' '.join(str(error).split())}); restore the file") from error
    except OSError as error:
        raise InputError(f"cannot read {uri}: {error.strerror}; check its permissions") from error


def _there(tree: Tree, listed_in: str, names: Iterable[str]) -> set[str]:
    """Return the names that a list gives, if they are all there."""
    wanted = set(names)
    uri = storage.join(tree.root, listed_in)
    outside = sorted(name for name in wanted if name.startswith("/") or ".." in name.split("/"))
    if outside:
        raise InputError(f"{uri}: {outside[0]!r} is not the name of a file below {tree.root}; correct the list")
    missing = sorted(tree.missing(wanted))
    if missing:
        raise InputError(
            f"{uri}: image {storage.join(tree.root, missing[0])} is missing ({len(missing)} of {len(wanted)} are); "
            "add them, or take the files that are there with --set images.layout=folder"
        )
    return wanted

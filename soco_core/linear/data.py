"""The labelled images: ImageNet's layout in a folder, on S3 or in a pack, with the same classes in both splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soco_core import storage
from soco_core.config import DatasetsConfig
from soco_core.console import say
from soco_core.datasets.findings import Findings
from soco_core.datasets.labels import FolderLabels, read_folder_labels, read_packed_labels
from soco_core.datasets.open_set import is_place, locate
from soco_core.datasets.published import named
from soco_core.errors import InputError
from soco_core.images import source_fingerprint
from soco_core.images.pack_source import open_pack, read_pack_file


@dataclass(frozen=True)
class LabelledImages:
    """What is trained on and what is evaluated on, over the same classes."""

    root: str
    """Where they lie, for people."""
    train: FolderLabels
    val: FolderLabels
    fingerprint: str
    """Names the images by their paths, which say their class, and their sizes in bytes."""


def open_labelled_images(images: str, config: DatasetsConfig, data: str | None = None) -> LabelledImages:
    """Open ``train/CLASS/*`` and ``val/CLASS/*`` below a root.

    Args:
        images: a folder, an S3 URI or a pack; or the name ``imagenet``.
        config: the recipe's section, which says where a named data set lies.
        data: says so before the recipe.

    Raises:
        InputError: there is no such place, a split or a class is missing, or the data set has no labels.
    """
    root = images if is_place(images) else _place_of(images, config, data)
    root = root.rstrip("/") if storage.is_s3(root) else str(Path(root).resolve())
    content = read_pack_file(root)
    findings = Findings()
    source = None if content is None else open_pack(root, content)
    train, val = (
        read_folder_labels(root, split, findings) if source is None else read_packed_labels(source, split, findings)
        for split in ("train", "val")
    )
    for finding in findings.all():
        say(f"{finding.rule.severity}: {finding.line}")
    _check_classes(root, train, val)
    # Contents are not hashed: as many bytes as an epoch reads, each time that the command is given.
    named_by = source_fingerprint(train.source, (*train.ids, *val.ids), "sizes")
    return LabelledImages(root, train, val, named_by)


def _place_of(name: str, config: DatasetsConfig, data: str | None) -> str:
    item = named(name)
    if item.kind != "labels":
        raise InputError(
            f"{name}: its images have no classes; give `imagenet`, or a folder of train/CLASS and val/CLASS"
        )
    return locate(item.root, config, data)


def _check_classes(root: str, train: FolderLabels, val: FolderLabels) -> None:
    here, there = set(train.classes), set(val.classes)
    for name, other, lacking in (("val", "train", there - here), ("train", "val", here - there)):
        if lacking:
            raise InputError(
                f"{root}: {name}/{min(lacking)} has no counterpart in {other} ({len(lacking)} of {len(here | there)} "
                "classes are in one of them only); both hold a folder, with images, for each class"
            )
    if len(train.classes) < 2:
        raise InputError(f"{root}: only one class, {train.classes[0]}; there is nothing to tell apart")

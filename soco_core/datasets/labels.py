"""Images whose label is their folder, as ImageNet is unpacked: for the linear probe."""

from __future__ import annotations

from dataclasses import dataclass

from soco_core.datasets.files import open_root
from soco_core.datasets.findings import Findings, Rule
from soco_core.errors import InputError
from soco_core.images.pack_source import PackSource
from soco_core.images.sources import FolderSource, ImageSource, S3Source
from soco_core.storage import is_s3

LOOSE = Rule("warning", "image outside the folders of classes", "it has no label: move it into its class", "images")


@dataclass(frozen=True)
class FolderLabels:
    """The images of one split."""

    source: ImageSource
    """Reads them."""
    ids: tuple[str, ...]
    """Paths relative to the source's root, sorted."""
    classes: tuple[str, ...]
    """Names of the folders, sorted; a folder's position is its label."""
    labels: tuple[int, ...]
    """Of each image, in the order of `ids`."""


def read_folder_labels(place: str, split: str, findings: Findings) -> FolderLabels:
    """Read a split: ``SPLIT/CLASS/IMAGE``, at any depth below the class.

    Args:
        place: the root, a folder or an S3 URI.
        split: folder of the split below it; empty: the classes lie in the root.
        findings: gets what is wrong.

    Raises:
        InputError: there is no such folder, or no image in a folder of a class.
    """
    tree = open_root(place)
    if split and not tree.has_folder(split):
        raise InputError(f"{place}: no folder {split}; it holds a folder of images for each class")
    source: ImageSource = S3Source(tree.root) if is_s3(tree.root) else FolderSource(tree.root)
    return _labelled(source, sorted(tree.images(split)), split, findings)


def read_packed_labels(source: PackSource, split: str, findings: Findings) -> FolderLabels:
    """Read a split of a pack whose images are called ``SPLIT/CLASS/IMAGE``; see :func:`read_folder_labels`.

    Raises:
        InputError: it has no image of that split.
    """
    prefix = f"{split}/" if split else ""
    found = [name for name in source.index.ids() if name.startswith(prefix)]
    if not found:
        raise InputError(
            f"{source.root}: a pack without images of {split}/CLASS/; pack the folder that holds train and val"
        )
    return _labelled(source, found, split, findings)


def _labelled(source: ImageSource, found: list[str], split: str, findings: Findings) -> FolderLabels:
    prefix = f"{split}/" if split else ""
    below = [image_id.removeprefix(prefix) for image_id in found]
    ids = [image_id for image_id, name in zip(found, below, strict=True) if "/" in name]
    for name in below:
        if "/" not in name:
            findings.add(LOOSE, source.root, f"{prefix}{name}")
    if not ids:
        raise InputError(
            f"{source.root}: {split or 'it'} holds no image in a folder of its class, such as {prefix}CLASS/1.jpg"
        )
    of_each = [image_id.removeprefix(prefix).partition("/")[0] for image_id in ids]
    classes = tuple(sorted(set(of_each)))
    number = {name: index for index, name in enumerate(classes)}
    return FolderLabels(source, tuple(ids), classes, tuple(number[name] for name in of_each))

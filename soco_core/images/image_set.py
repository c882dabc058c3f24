"""An image set: which images there are, under ids that do not depend on the machine, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from soco_core import storage
from soco_core.config import ImagesConfig
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.images.fingerprint import file_identities, source_fingerprint
from soco_core.images.layouts import Found, coco_images, every_image, is_coco, is_voc, voc_images
from soco_core.images.pack_source import PACK, open_pack, read_pack_file
from soco_core.images.sources import FolderSource, ImageSource, Mode, S3Source
from soco_core.images.subset import is_percentage, take_subset
from soco_core.images.trees import LocalTree, Tree, open_tree

NAMES = {"coco": "COCO", "voc": "VOC"}


@dataclass(frozen=True)
class ImageSet:
    """Images and the order that they have everywhere: that of their ids."""

    source: ImageSource
    """Reads them."""
    ids: tuple[str, ...]
    """Paths relative to the source's root, with ``/`` between folders, sorted by code point."""
    layout: str
    """What was found: folder, coco, voc or pack."""
    splits: tuple[str, ...]
    """The splits of COCO or VOC that were taken (of a pack: when it was made); empty for a folder."""
    subset: str
    """The part that was taken, as ``images.subset`` names it; empty: all."""
    sizes: Mapping[str, int] | None = field(default=None, repr=False, compare=False)
    """Sizes of the files in bytes, where the listing that found them said so (S3)."""

    def fingerprint(self, mode: Mode) -> str:
        """Return 16 hexadecimal digits that name the set, wherever it lies; see :func:`source_fingerprint`."""
        return source_fingerprint(self.source, self.ids, mode, self.sizes)

    def identities(self, mode: Mode) -> Iterator[str | None]:
        """Yield what the fingerprint knows of each file: SHA-256 in hexadecimal or size; None: it cannot be opened."""
        return file_identities(self.source, self.ids, mode, self.sizes)


def open_source(root: str) -> ImageSource:
    """Open what reads the images of a root: a folder tree, an S3 prefix, or a pack of `soco pack`.

    Nothing is listed, so that it is cheap where the ids are known.

    Raises:
        InputError: there is no such folder or bucket, or the store refuses.
    """
    root = root.rstrip("/") if storage.is_s3(root) else LocalTree(root).root
    content = read_pack_file(root)
    if content is not None:
        return open_pack(root, content)
    return S3Source(root) if storage.is_s3(root) else FolderSource(root)


def open_image_set(root: str, config: ImagesConfig = ImagesConfig()) -> ImageSet:  # noqa: B008 (it is frozen)
    """Find the images of a local folder, an S3 prefix or a pack.

    Args:
        root: where they lie.
        config: layout, splits and subset.

    Raises:
        InputError: there is no such place, it does not have the layout, a split or a listed image is missing, there is
            no image at all, or there are too few for the subset.
    """
    tree = open_tree(root)
    content = read_pack_file(tree.root)
    layout = config.layout
    if layout == "auto":
        layout = "pack" if content else "voc" if is_voc(tree) else "coco" if is_coco(tree) else "folder"
    if (layout == "pack") != (content is not None):
        problem = f"has no {PACK} of `soco pack`" if content is None else f"is a pack (it has a {PACK})"
        raise InputError(
            f"{tree.root}: images.layout is {layout}, but this {problem}; correct --images or images.layout"
        )
    if content is not None:
        return _open_packed(tree.root, content, config)
    source: ImageSource = S3Source(tree.root) if storage.is_s3(tree.root) else FolderSource(tree.root)
    splits, ids = _find(tree, layout, config.splits)
    if config.layout == "auto" and layout in NAMES:
        say(
            f"images: {tree.root} has {NAMES[layout]}'s layout: {len(ids)} images of {' + '.join(splits)}; "
            "--set images.layout=folder takes every image file instead"
        )
    if config.subset:
        ids = take_subset(ids, config.subset, tree.root)
    return ImageSet(source, ids, layout, splits, config.subset, tree.sizes())


def _find(tree: Tree, layout: str, splits: tuple[str, ...]) -> Found:
    if layout == "coco":
        return coco_images(tree, splits)
    if layout == "voc":
        return voc_images(tree, splits)
    if splits:
        raise InputError(
            f"{tree.root}: images.splits {', '.join(splits)} are of COCO or VOC, but this is read as a folder; leave "
            "them out, or correct --images or images.layout"
        )
    return every_image(tree)


def _open_packed(root: str, content: dict[str, Any], config: ImagesConfig) -> ImageSet:
    made_with = content["source"]
    if config.splits and list(config.splits) != made_with["splits"]:
        of = f"of {', '.join(made_with['splits'])}" if made_with["splits"] else "without splits"
        raise InputError(
            f"{root}: a pack {of}, but images.splits asks for {', '.join(config.splits)}; leave them out, or pack those"
        )
    source = open_pack(root, content)
    ids = source.index.ids()
    subset = made_with["subset"]
    # The recipe that made a pack of 10% means those 10% when it reads the pack, not 10% of them.
    if config.subset and not (is_percentage(subset) and config.subset == subset):
        ids = take_subset(ids, config.subset, root)
        subset = f"{config.subset} of {subset}" if subset and config.subset != subset else config.subset
    return ImageSet(source, ids, "pack", tuple(made_with["splits"]), subset)

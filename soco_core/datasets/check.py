"""Is a data set what it says: its files, counts, boxes, categories and masks, before hours are spent on it."""

from __future__ import annotations

from soco_core import storage
from soco_core.config import DatasetsConfig, ImagesConfig
from soco_core.datasets.check_pack import check_pack
from soco_core.datasets.files import Follow, visibly
from soco_core.datasets.findings import Rule, worst
from soco_core.datasets.labels import read_folder_labels
from soco_core.datasets.looked import (
    OTHER_CATEGORIES,
    Depth,
    Report,
    SplitReport,
    compare,
    compare_classes,
    look_at_images,
    unreadable,
)
from soco_core.datasets.open_set import (
    PARTS,
    check_list,
    images_of_lvis,
    is_folder,
    is_place,
    kind_of,
    locate,
    read_part,
    taken,
)
from soco_core.datasets.published import Kind, Named, named
from soco_core.datasets.split import LabelledSplit, other_category, usable
from soco_core.errors import InputError
from soco_core.images.decode import DEFAULT_MAX_PIXELS
from soco_core.images.image_set import open_image_set, open_source
from soco_core.images.pack_source import read_pack_file
from soco_core.images.sources import Mode

NOTHING = Rule(
    "error", "no object to train on", "add objects that are no crowds, with boxes of some area", "annotations"
)
IN_BOTH = Rule("warning", "image in both splits", "evaluate on images that were not trained on", "images")


def check(
    name: str,
    config: DatasetsConfig,
    data: str | None = None,
    sample: int | None = None,
    fingerprint: Mode | None = None,
    follow: Follow = visibly,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Report:
    """Look at a data set as a whole.

    Args:
        name: of a data set, or its folder or pack (a path or an S3 URI); only a name has published counts.
        config: where the data sets lie.
        data: goes before `config` (:func:`soco_core.datasets.open_set.locate`).
        sample: images to decode in each split, the same each time; None: all.
        fingerprint: also name the images of each split, by their ``sizes`` or ``contents``; a copy has the same.
        follow: goes through long lists.
        max_pixels: an image of more pixels cannot be decoded (the recipe's `images.max_pixels`).

    Raises:
        InputError: there is no such name or folder, or a pack in the place of annotations; a list of images
            (``datasets.image_ids``) is given, and the data set takes none.
    """
    item = None if is_place(name) else named(name)
    place = locate(item.root, config, data) if item else name
    depth = Depth(sample, fingerprint, follow, max_pixels)
    report = Report(name, place, [], item.known if item else {})
    content = read_pack_file(place)
    if content is not None:
        check_pack(report, item, content, depth)
        return report
    kind = item.kind if item else kind_of(place)
    if kind == "labels":
        _check_labels(report, item, depth)
    elif kind == "images":
        assert item is not None  # a folder has no such kind
        _check_images(report, item, depth)
    else:
        check_list(item, config)
        images = images_of_lvis(place, config, data) if kind == "lvis" else ""
        _check_detection(report, kind, item, config, images, depth)
    return report


def _check_detection(
    report: Report,
    kind: Kind,
    item: Named | None,
    config: DatasetsConfig,
    images: str,
    depth: Depth,
) -> None:
    published = dict(zip(PARTS, item.splits.values(), strict=True)) if item else {}
    opened: list[LabelledSplit] = []
    for part in PARTS:
        looked = SplitReport(part, published=published.get(part))
        report.splits.append(looked)
        try:
            split = read_part(report.place, kind, part, looked.findings, images, depth.follow)
            if item and part == "train":
                split = taken(item, split, config)
        except InputError as error:
            unreadable(looked, report.place, error)
            continue
        opened.append(split)
        looked.images, looked.annotations = len(split.images), len(split.annotations)
        looked.categories = len(split.categories)
        compare(looked, split.annotation_file, item)
        # Where entries are wrong, that is what is to be corrected.
        if part == "train" and worst(looked.findings.all()) != "error" and not _any_usable(split):
            looked.findings.add(NOTHING, split.annotation_file, f"none of {len(split.annotations):,} annotations")
        sizes = {image["file_name"]: (image["width"], image["height"]) for image in split.images}
        look_at_images(looked, open_source(split.folder), list(sizes), depth, sizes=sizes)
    if len(opened) == 2:
        _compare_splits(report.splits[1], *opened)


def _any_usable(split: LabelledSplit) -> bool:
    return any(usable(item, masks=False) for item in split.annotations)


def _compare_splits(looked: SplitReport, train: LabelledSplit, val: LabelledSplit) -> None:
    odd = other_category(train, val)
    if odd:
        looked.findings.add(OTHER_CATEGORIES, val.annotation_file, odd)
    if train.folder == val.folder:
        for name in sorted({image["file_name"] for image in train.images} & {i["file_name"] for i in val.images}):
            looked.findings.add(IN_BOTH, val.annotation_file, name)


def _check_images(report: Report, item: Named, depth: Depth) -> None:
    for name, published in item.splits.items():
        looked = SplitReport(name, published=published)
        report.splits.append(looked)
        try:
            if item.root == "coco":
                found = open_image_set(report.place, ImagesConfig(layout="coco", splits=(name,)))
            else:
                config = ImagesConfig(layout="folder", subset=item.share)
                found = open_image_set(storage.join(report.place, name), config)
        except InputError as error:
            unreadable(looked, report.place, error)
            continue
        looked.images = len(found.ids)
        compare(looked, found.source.root, item)
        look_at_images(looked, found.source, found.ids, depth, f"{name}/")


def _check_labels(report: Report, item: Named | None, depth: Depth) -> None:
    bare = not is_folder(storage.join(report.place, "train"))
    classes: list[tuple[str, ...]] = []
    for name in ("",) if bare and item is None else PARTS:
        looked = SplitReport(name or "images", published=item.splits[name] if item else None)
        report.splits.append(looked)
        try:
            found = read_folder_labels(report.place, name, looked.findings)
        except InputError as error:
            unreadable(looked, report.place, error)
            continue
        looked.images, looked.categories = len(found.ids), len(found.classes)
        compare(looked, found.source.root, item)
        look_at_images(looked, found.source, found.ids, depth, f"{name}/" if name else "")
        classes.append(found.classes)
    compare_classes(report, classes)

"""Is a data set what it says: its files, counts, boxes, categories and masks, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from soco_core import storage
from soco_core.config import DatasetsConfig, ImagesConfig
from soco_core.datasets.files import Follow, visibly
from soco_core.datasets.findings import Finding, Findings, Rule
from soco_core.datasets.labels import read_folder_labels
from soco_core.datasets.open_set import PARTS, images_of_lvis, is_folder, is_place, kind_of, locate, read_part, taken
from soco_core.datasets.published import Counts, Kind, Named, named
from soco_core.datasets.split import LabelledSplit
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError, decode_image
from soco_core.images.image_set import open_image_set, open_source
from soco_core.images.sources import read_each
from soco_core.images.subset import take_subset

COUNT = Rule("error", "number other than published", "download or unpack it again; the list may be another one's", "")
CLASS_COUNT = Rule("error", "number of categories other than published", "take the published annotations", "")
OTHER_CATEGORIES = Rule("error", "categories differ between the splits", "both must list the same", "splits")
IN_BOTH = Rule("warning", "image in both splits", "evaluate on images that were not trained on", "images")
BAD_IMAGE = Rule("error", "image that cannot be decoded", "restore the file", "images")
OTHER_SIZE = Rule("error", "image of another size than its annotations say", "restore the file", "images")


@dataclass
class SplitReport:
    """What was found of one split."""

    name: str
    images: int = 0
    annotations: int | None = None
    categories: int | None = None
    decoded: int = 0
    """Images that were read and decoded."""
    published: Counts | None = None
    findings: Findings = field(default_factory=Findings)


@dataclass
class Report:
    """What was found of a data set."""

    name: str
    place: str
    splits: list[SplitReport]
    known: dict[Rule, int] = field(default_factory=dict)

    def all(self) -> list[tuple[str, Finding]]:
        """Return (split, finding), the worst first; faults of the published files themselves are notes."""
        found = []
        for split in self.splits:
            for item in split.findings.all():
                published = item.count <= self.known.get(item.rule, 0)
                rule = replace(item.rule, severity="note", remedy="so published") if published else item.rule
                found.append((split.name, replace(item, rule=rule)))
        order = {"error": 0, "warning": 1, "note": 2}
        return sorted(found, key=lambda pair: order[pair[1].rule.severity])


def check(
    name: str,
    config: DatasetsConfig,
    data: str | None = None,
    sample: int | None = None,
    follow: Follow = visibly,
) -> Report:
    """Look at a data set as a whole.

    Args:
        name: of a data set, or its folder (a path or an S3 URI); only a name has published counts.
        config: where the data sets lie.
        data: goes before `config` (:func:`soco_core.datasets.open_set.locate`).
        sample: images to decode in each split, the same each time; None: all.
        follow: goes through long lists.

    Raises:
        InputError: there is no such name or folder.
    """
    item = None if is_place(name) else named(name)
    place = locate(item.root, config, data) if item else name
    kind = item.kind if item else kind_of(place)
    report = Report(name, place, [], item.known if item else {})
    if kind == "labels":
        _check_labels(report, item, sample, follow)
    elif kind == "images":
        assert item is not None  # a folder has no such kind
        _check_images(report, item, sample, follow)
    else:
        images = images_of_lvis(place, config, data) if kind == "lvis" else ""
        _check_detection(report, kind, item, config, images, sample, follow)
    return report


def _check_detection(
    report: Report,
    kind: Kind,
    item: Named | None,
    config: DatasetsConfig,
    images: str,
    sample: int | None,
    follow: Follow,
) -> None:
    published = dict(zip(PARTS, item.splits.values(), strict=True)) if item else {}
    opened: list[LabelledSplit] = []
    for part in PARTS:
        looked = SplitReport(part, published=published.get(part))
        report.splits.append(looked)
        try:
            split = read_part(report.place, kind, part, looked.findings, images, follow)
            if item and part == "train":
                split = taken(item, split, config)
        except InputError as error:
            _unreadable(looked, report.place, error)
            continue
        opened.append(split)
        looked.images, looked.annotations = len(split.images), len(split.annotations)
        looked.categories = len(split.categories)
        _compare(looked, split.annotation_file, item)
        sizes = {image["file_name"]: (image["width"], image["height"]) for image in split.images}
        _decode(looked, split.folder, list(sizes), sample, follow, sizes)
    if len(opened) == 2:
        _compare_splits(report.splits[1], *opened)


def _compare_splits(looked: SplitReport, train: LabelledSplit, val: LabelledSplit) -> None:
    names = [[(item["id"], item["name"]) for item in split.categories] for split in (train, val)]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]), key=str)[0]
        looked.findings.add(OTHER_CATEGORIES, val.annotation_file, f"category {odd[0]} ({odd[1]}) is in one split only")
    if train.folder == val.folder:
        for name in sorted({image["file_name"] for image in train.images} & {i["file_name"] for i in val.images}):
            looked.findings.add(IN_BOTH, val.annotation_file, name)


def _check_images(report: Report, item: Named, sample: int | None, follow: Follow) -> None:
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
            _unreadable(looked, report.place, error)
            continue
        looked.images = len(found.ids)
        _compare(looked, found.source.root, item)
        _decode(looked, found.source.root, found.ids, sample, follow)


def _check_labels(report: Report, item: Named | None, sample: int | None, follow: Follow) -> None:
    bare = not is_folder(storage.join(report.place, "train"))
    classes: list[tuple[str, ...]] = []
    for name in ("",) if bare and item is None else PARTS:
        looked = SplitReport(name or "images", published=item.splits[name] if item else None)
        report.splits.append(looked)
        try:
            found = read_folder_labels(report.place, name, looked.findings)
        except InputError as error:
            _unreadable(looked, report.place, error)
            continue
        looked.images, looked.categories = len(found.ids), len(found.classes)
        _compare(looked, found.source.root, item)
        _decode(looked, found.source.root, found.ids, sample, follow)
        classes.append(found.classes)
    if len(classes) == 2 and classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))[0]
        report.splits[1].findings.add(OTHER_CATEGORIES, report.place, f"the folder {odd} is in one split only")


def _unreadable(looked: SplitReport, place: str, error: InputError) -> None:
    problem, _, remedy = str(error).rpartition("; ")
    rule = Rule("error", "cannot be read", remedy if problem else "see docs/datasets.md", "splits")
    looked.findings.add(rule, place, (problem or remedy).removeprefix(f"{place}: "))


def _compare(looked: SplitReport, file: str, item: Named | None) -> None:
    if item is None or looked.published is None:
        return
    for found, wanted, what in (
        (looked.images, looked.published.images, "images"),
        (looked.annotations, looked.published.annotations, "annotations"),
    ):
        if wanted is not None and found is not None and found != wanted:
            rule = replace(COUNT, what=f"number of {what} other than published")
            looked.findings.add(rule, file, f"{found:,} {what} instead of {wanted:,}")
    if item.categories and looked.categories != item.categories:
        looked.findings.add(CLASS_COUNT, file, f"{looked.categories or 0:,} instead of {item.categories:,}")


def _decode(
    looked: SplitReport,
    root: str,
    names: Sequence[str],
    sample: int | None,
    follow: Follow,
    sizes: dict[str, tuple[int, int]] | None = None,
) -> None:
    """Read and decode images; a sample holds those of the smallest salted SHA-256, so it is the same each time."""
    if not names or sample == 0:
        return
    chosen = sorted(names)
    if sample is not None and sample < len(chosen):
        chosen = list(take_subset(chosen, str(sample), root))
    contents = read_each(open_source(root), chosen)
    for name, (_, content) in zip(follow(f"{looked.name}: images", chosen), contents, strict=True):
        looked.decoded += 1
        file = storage.join(root, name)
        try:
            if isinstance(content, BadImageError):
                raise content
            height, width = decode_image(content).shape[:2]
        except BadImageError as error:
            looked.findings.add(BAD_IMAGE, file, str(error))
            continue
        if sizes and sizes[name] != (width, height):
            said = "{}x{}".format(*sizes[name])
            looked.findings.add(OTHER_SIZE, file, f"has {width}x{height} pixels, its annotations say {said}")

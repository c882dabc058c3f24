"""What a check found of each split, and what it does with the images of any layout: count, read, decode, name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from soco_core import storage
from soco_core.datasets.files import Follow
from soco_core.datasets.findings import Finding, Findings, Rule
from soco_core.datasets.published import Counts, Named
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError, decode_image
from soco_core.images.fingerprint import digest_of, file_identities
from soco_core.images.sources import ImageSource, Mode, read_each
from soco_core.images.subset import take_subset

COUNT = Rule("error", "number other than published", "download or unpack it again; the list may be another one's", "")
CLASS_COUNT = Rule("error", "number of categories other than published", "take the published annotations", "")
OTHER_CATEGORIES = Rule("error", "categories differ between the splits", "both must list the same", "splits")
BAD_IMAGE = Rule("error", "image that cannot be decoded", "restore the file", "images")
OTHER_SIZE = Rule(
    "error",
    "image of another size than its annotations say",
    "restore the file, or correct the width and height; images are turned upright by their EXIF first",
    "images",
)
ONE_CLASS = Rule("error", "one class only", "the linear probe has nothing to tell apart; add another class", "splits")


@dataclass(frozen=True)
class Depth:
    """How closely images are looked at."""

    sample: int | None
    """Images to decode in each split, the same each time; None: all."""
    fingerprint: Mode | None
    """Also name the images of each split by their sizes or contents; None: do not."""
    follow: Follow
    """Goes through long lists."""
    max_pixels: int
    """An image of more pixels cannot be decoded."""


@dataclass
class SplitReport:
    """What was found of one split."""

    name: str
    images: int = 0
    annotations: int | None = None
    categories: int | None = None
    decoded: int = 0
    """Images that were read and decoded."""
    fingerprint: str = ""
    """Names the images, relative to the split: the same for each copy (16 hexadecimal digits)."""
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


def unreadable(looked: SplitReport, place: str, error: InputError) -> None:
    """Note that a split, or what it lies in, cannot be read."""
    problem, _, remedy = str(error).rpartition("; ")
    rule = Rule("error", "cannot be read", remedy if problem else "see docs/datasets.md", "splits")
    looked.findings.add(rule, place, (problem or remedy).removeprefix(f"{place}: "))


def compare(looked: SplitReport, file: str, item: Named | None) -> None:
    """Compare the counts of a split with the published ones."""
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


def compare_classes(report: Report, classes: Sequence[tuple[str, ...]]) -> None:
    """Compare the folders of classes of two splits."""
    if len(classes) == 2 and classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))[0]
        report.splits[1].findings.add(OTHER_CATEGORIES, report.place, f"the folder {odd} is in one split only")
    elif len(classes) == 2 and len(classes[0]) == 1:
        report.splits[0].findings.add(ONE_CLASS, report.place, f"all images are in {classes[0][0]}")


def look_at_images(
    looked: SplitReport,
    source: ImageSource,
    names: Sequence[str],
    depth: Depth,
    prefix: str = "",
    sizes: dict[str, tuple[int, int]] | None = None,
) -> None:
    """Read and decode images, and name them all; a sample is that of the smallest salted SHA-256.

    Args:
        looked: gets the findings.
        source: reads the images.
        names: of the split's images, relative to the source.
        depth: how many, and whether they are named.
        prefix: what each name begins with, of which the fingerprint is free.
        sizes: name -> width and height that the annotations say.
    """
    if depth.fingerprint and names:
        ordered = sorted(names)
        identities = file_identities(source, ordered, depth.fingerprint)
        bare = (name.removeprefix(prefix) for name in depth.follow(f"{looked.name}: fingerprint", ordered))
        looked.fingerprint = digest_of(zip(bare, identities, strict=True), depth.fingerprint)
    chosen = sorted(names)
    if not chosen or depth.sample == 0:
        return
    if depth.sample is not None and depth.sample < len(chosen):
        chosen = list(take_subset(chosen, str(depth.sample), source.root))
    contents = read_each(source, chosen)
    for name, (_, content) in zip(depth.follow(f"{looked.name}: images", chosen), contents, strict=True):
        looked.decoded += 1
        file = storage.join(source.root, name)
        try:
            if isinstance(content, BadImageError):
                raise content
            height, width = decode_image(content, depth.max_pixels).shape[:2]
        except BadImageError as error:
            looked.findings.add(BAD_IMAGE, file, str(error))
            continue
        if sizes and sizes[name] != (width, height):
            said = "{}x{}".format(*sizes[name])
            looked.findings.add(OTHER_SIZE, file, f"has {width}x{height} pixels, its annotations say {said}")

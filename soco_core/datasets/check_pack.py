"""The check of a pack: its tars, what was left out of it, and whether its images are those that were packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soco_core import storage
from soco_core.datasets.findings import Rule
from soco_core.datasets.labels import read_packed_labels
from soco_core.datasets.looked import Depth, Report, SplitReport, compare, compare_classes, look_at_images, unreadable
from soco_core.datasets.open_set import PARTS
from soco_core.datasets.published import Named
from soco_core.errors import InputError
from soco_core.images.pack_source import PackSource, open_pack
from soco_core.images.subset import take_subset

BAD_TAR = Rule("error", "tar that is missing or of another size than was packed", "copy the pack again", "tars")
LEFT_OUT = Rule("warning", "file that was left out of the pack", "restore the file, and pack the images again", "files")
TRAIN_ALONE = Rule("note", "training images alone", "enough for pretraining; the linear probe needs val, too", "splits")


def check_pack(report: Report, item: Named | None, content: dict[str, Any], depth: Depth) -> None:
    """Look at a pack: every tar is there in its size, and each image that is read has the SHA-256 that was packed.

    Args:
        report: gets a split for each that the data set has.
        item: the data set by name, whose counts are compared; None: whatever lies in the pack.
        content: of ``pack.json``.
        depth: how closely.

    Raises:
        InputError: it is the name of a data set with annotations, which no pack has.
    """
    place = report.place
    if item and item.kind not in {"images", "labels"}:
        raise InputError(f"{place}: a pack, but {item.name} has annotations; give the folder that holds them")
    try:
        source = open_pack(place if storage.is_s3(place) else str(Path(place).resolve()), content)
        ids = source.index.ids()
    except InputError as error:
        report.splits.append(SplitReport("pack"))
        unreadable(report.splits[0], place, error)
        return
    labelled = item.kind == "labels" if item else all(name.startswith(_PREFIXES) for name in ids)
    classes: list[tuple[str, ...]] = []
    taken: list[_Split] = []
    for name, prefix, names in _labelled(ids) if labelled else _unlabelled(item, ids):
        looked = SplitReport(name, published=item.splits[name] if item else None)
        report.splits.append(looked)
        try:
            if labelled:
                found = read_packed_labels(source, prefix.rstrip("/"), looked.findings)
                names, looked.categories = found.ids, len(found.classes)  # noqa: PLW2901
                classes.append(found.classes)
            elif item and item.share:
                chosen = take_subset([image_id.removeprefix(prefix) for image_id in names], item.share, place)
                names = [f"{prefix}{image_id}" for image_id in chosen]  # noqa: PLW2901
        except InputError as error:
            unreadable(looked, place, error)
        looked.images = len(names)
        taken.append((name, prefix, names))
        compare(looked, place, item)
    compare_classes(report, classes)
    if labelled and len(taken) == 1:
        report.splits[0].findings.add(TRAIN_ALONE, place, "no image of it is called train/... or val/...")
    for text in _left_out(content):
        report.splits[0].findings.add(LEFT_OUT, place, text)
    if not _check_tars(report.splits[0], source):
        return  # an image in such a tar would say the same
    for looked, (_, prefix, names) in zip(report.splits, taken, strict=True):
        try:
            look_at_images(looked, source, names, depth, prefix)
        except InputError as error:
            unreadable(looked, place, error)


_PREFIXES = tuple(f"{part}/" for part in PARTS)
_Split = tuple[str, str, Sequence[str]]
"""Name, what its ids begin with, and its ids."""


def _labelled(ids: Sequence[str]) -> list[_Split]:
    found: list[_Split] = []
    for part in PARTS:
        found.append((part, f"{part}/", [name for name in ids if name.startswith(f"{part}/")]))
    # What a pretraining takes is packed without its folder `train`.
    return found if any(names for _, _, names in found) else [(PARTS[0], "", ids)]


def _unlabelled(item: Named | None, ids: Sequence[str]) -> list[_Split]:
    if item is None:
        return [("images", "", ids)]
    found: list[_Split] = []
    for split in item.splits:
        prefix = next((p for p in (f"{split}/", f"images/{split}/") if any(name.startswith(p) for name in ids)), "")
        names: Sequence[str] = [name for name in ids if name.startswith(prefix)]
        if not prefix and len(item.splits) > 1:
            names = []
        found.append((split, prefix, names))
    return found


def _left_out(content: dict[str, Any]) -> list[str]:
    """Return what ``pack.json`` says of files that are not in the pack; anybody may have written it."""
    entries = content.get("left_out")
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [f"{entry.get('id')}: {entry.get('reason')}" for entry in found]


def _check_tars(looked: SplitReport, source: PackSource) -> bool:
    """Compare the sizes of the tars with those that were packed; tell whether all are right."""
    if source.remote:
        there = dict(storage.list_objects(source.root))
    else:
        there = {path.name: path.stat().st_size for path in Path(source.root).iterdir() if path.is_file()}
    wrong = [(name, size) for name, size in source.shards if there.get(name) != size]
    for name, size in wrong:
        kept = f"has {there[name]:,} bytes instead of {size:,}" if name in there else "is missing"
        looked.findings.add(BAD_TAR, storage.join(source.root, name), kept)
    return not wrong

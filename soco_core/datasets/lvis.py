"""What LVIS adds to COCO's format: for each image, which categories are known to be absent or not all marked."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from soco_core.datasets.findings import Findings, Rule
from soco_core.datasets.rules import Problem, short

FREQUENCIES = ("r", "c", "f")
BAD_LIST = Rule("error", "federated list that is no list of ids", "write a list of category ids", "images")
UNKNOWN_IN_LIST = Rule("error", "unknown category in a federated list", "correct the list", "images")
BOTH_LISTS = Rule("warning", "category in both federated lists", "a category is absent or not all marked", "images")
NEGATIVE_MARKED = Rule(
    "warning", "category that is marked, and listed as absent", "take it out of neg_category_ids", "images"
)
UNMARKED = Rule("note", "category not all marked, and none of it is", "detections of it are ignored there", "images")
BAD_FREQUENCY = Rule("error", "category without a frequency", "write r, c or f: APr, APc and APf need it", "categories")
NO_URL = Rule(
    "error", "image whose place in COCO is not told", "add coco_url or file_name: train2017/NAME.jpg", "images"
)


def lvis_image_name(image: dict[str, Any]) -> str | None:
    """Return an image's file relative to COCO's root, ``train2017/NAME.jpg``, told from its ``coco_url``.

    LVIS v1 takes images of COCO's train2017 and val2017, whatever the split. None: the URL does not say it.
    """
    url = image.get("coco_url") or image.get("file_name")
    parts = url.split("/") if isinstance(url, str) else []
    return "/".join(parts[-2:]) if len(parts) >= 2 and all(parts[-2:]) else None


def lvis_image_problems(image: dict[str, Any], categories: Set[int]) -> Iterator[Problem]:
    """Yield what is wrong with the federated lists and the URL of an image."""
    lists: dict[str, list[int]] = {}
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        value = image[key]
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            yield BAD_LIST, key, f"{short(value)} is not a list of category ids"
            return
        unknown = [item for item in value if item not in categories]
        if unknown:
            yield UNKNOWN_IN_LIST, key, f"{unknown[0]} is not in categories"
        lists[key] = value
    both = set(lists["neg_category_ids"]) & set(lists["not_exhaustive_category_ids"])
    if both:
        yield BOTH_LISTS, "neg_category_ids", f"{min(both)} is in not_exhaustive_category_ids too"
    if lvis_image_name(image) is None:
        key = "file_name" if image.get("file_name") and not image.get("coco_url") else "coco_url"
        shown = short(image.get(key))
        yield NO_URL, key, f"{shown} does not end in train2017/NAME.jpg or val2017/NAME.jpg"


def lvis_category_problems(category: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with a category."""
    if category["frequency"] not in FREQUENCIES:
        yield BAD_FREQUENCY, "frequency", f"{short(category['frequency'])} is not r, c or f"


def note_federated(
    file: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]], findings: Findings
) -> None:
    """Compare the federated lists with what is marked."""
    marked: dict[int, set[int]] = {}
    for item in annotations:
        marked.setdefault(item["image_id"], set()).add(item["category_id"])
    for image in images:
        there = marked.get(image["id"], set())
        wrong = there.intersection(image["neg_category_ids"])
        if wrong:
            text = f"image of id {image['id']}: neg_category_ids: category {min(wrong)} has annotations there"
            findings.add(NEGATIVE_MARKED, file, text)
        absent = set(image["not_exhaustive_category_ids"]) - there
        if absent:
            text = f"image of id {image['id']}: not_exhaustive_category_ids: category {min(absent)}"
            findings.add(UNMARKED, file, text)

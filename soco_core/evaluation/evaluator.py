"""From detections in COCO's result format to the paper's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soco_core.datasets.split import LabelledSplit
from soco_core.evaluation.coco import Kind, coco_tables
from soco_core.evaluation.detections import read_detections
from soco_core.evaluation.tables import Tables
from soco_core.evaluation.voc import voc_tables

PREFIXES: dict[Kind, str] = {"boxes": "APbb", "masks": "APmk"}
SUFFIXES = {"coco": ("", "50", "75"), "voc": ("", "50", "75"), "lvis": ("", "50", "75", "r", "c", "f")}


@dataclass(frozen=True)
class Evaluation:
    """How good detections are; all numbers in percent, None where the truth has nothing to find."""

    columns: dict[str, float | None]
    """The paper's: APbb, APbb50, APbb75, with masks also APmk, APmk50, APmk75; on LVIS each also for rare, common and
    frequent categories: APbbr, APbbc, APbbf, APmkr, APmkc, APmkf."""
    details: dict[str, Any]
    """``boxes`` and, with masks, ``masks``: every number by name. COCO has AP, AP50, AP75, APsmall, APmedium, APlarge,
    AR1, AR10, AR100, ARsmall, ARmedium and ARlarge; LVIS has AR300 for the three AR1 to AR100, and APr, APc and APf;
    VOC has AP, AP50 and AP75. ``categories``: under ``boxes`` and ``masks``, AP by the category's name."""


def evaluate(split: LabelledSplit, predictions: list[dict[str, Any]], masks: bool = True) -> Evaluation:
    """Evaluate detections by the rules of the split's format (paper 4.2).

    The order of the predictions does not matter: they are taken by image id, falling score, category id, box (x, y,
    width, height) and mask. So equal scores keep the order of the images, and in an image that of the boxes.

    Args:
        split: the truth; a part of a data set will do.
        predictions: COCO results: ``image_id``, ``category_id``, ``bbox`` ([x, y, width, height] in pixels, 0-based),
            ``score`` and, with masks, ``segmentation``: compressed RLE of the image's size. They stay as they are.
        masks: whether masks are evaluated as well; VOC has none.

    Raises:
        InputError: a prediction has an unknown image or category, or a box, score or mask that is none.
    """
    kinds: tuple[Kind, ...] = ("boxes", "masks") if masks and split.format != "voc" else ("boxes",)
    detections = read_detections(split, predictions, masks="masks" in kinds)
    found: dict[Kind, Tables] = {}
    for kind in kinds:
        found[kind] = voc_tables(split, detections) if split.format == "voc" else coco_tables(split, detections, kind)
    return Evaluation(
        columns={
            PREFIXES[kind] + suffix: tables.numbers[f"AP{suffix}"]
            for kind, tables in found.items()
            for suffix in SUFFIXES[split.format]
        },
        details={
            **{kind: tables.numbers for kind, tables in found.items()},
            "categories": {kind: tables.categories for kind, tables in found.items()},
        },
    )

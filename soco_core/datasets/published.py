"""The data sets by name, and what was published of each: the one table of counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from soco_core.datasets.findings import Rule
from soco_core.datasets.rules import DEGENERATE
from soco_core.errors import InputError

Root = Literal["coco", "voc", "lvis", "imagenet"]
Kind = Literal["coco", "voc", "lvis", "images", "labels"]


@dataclass(frozen=True)
class Counts:
    """What a split holds; None: it is not published, or follows from the choice of images."""

    images: int
    annotations: int | None = None
    """All of them, crowds and difficult objects too."""


@dataclass(frozen=True)
class Named:
    """A data set that the paper uses."""

    name: str
    root: Root
    """Which folder it lies in."""
    kind: Kind
    about: str
    splits: dict[str, Counts]
    categories: int | None = None
    share: str = ""
    """The part of the first split that is taken; empty: all."""
    known: dict[Rule, int] = field(default_factory=dict)
    """Faults of the published files themselves: as many in a split are only noted."""


TRAIN2017, VAL2017, UNLABELED2017 = 118_287, 5_000, 123_403
COCO_TRAIN = Counts(TRAIN2017, 860_001)
COCO_VAL = Counts(VAL2017, 36_781)
COCO_KNOWN = {DEGENERATE: 2}
IMAGENET_TRAIN = 1_281_167

NAMED = (
    Named(
        "coco2017",
        "coco",
        "coco",
        "COCO train2017 -> val2017 (paper 4.2, Tables 1 and 2)",
        {"train": COCO_TRAIN, "val": COCO_VAL},
        categories=80,
        known=COCO_KNOWN,
    ),
    Named(
        "mini-coco-5",
        "coco",
        "coco",
        "5 % of COCO train2017 -> val2017 (Table 8)",
        {"train": Counts(5_914), "val": COCO_VAL},
        categories=80,
        share="5%",
        known=COCO_KNOWN,
    ),
    Named(
        "mini-coco-10",
        "coco",
        "coco",
        "10 % of COCO train2017 -> val2017 (Table 8)",
        {"train": Counts(11_829), "val": COCO_VAL},
        categories=80,
        share="10%",
        known=COCO_KNOWN,
    ),
    Named(
        "coco-50pct",
        "coco",
        "coco",
        "half of COCO train2017 -> val2017 (Table 12)",
        {"train": Counts(59_144), "val": COCO_VAL},
        categories=80,
        share="50%",
        known=COCO_KNOWN,
    ),
    Named(
        "voc0712",
        "voc",
        "voc",
        "Pascal VOC trainval07+12 -> test2007 (Table 3)",
        {"trainval": Counts(16_551, 47_223), "test": Counts(4_952, 14_976)},
        categories=20,
    ),
    Named(
        "lvis-v1",
        "lvis",
        "lvis",
        "LVIS v1 train -> val (Table 6)",
        {"train": Counts(100_170, 1_270_141), "val": Counts(19_809, 244_707)},
        categories=1_203,
    ),
    Named(
        "coco-train+unlabeled",
        "coco",
        "images",
        "COCO train2017 and unlabeled2017, for pretraining (Table 9)",
        {"train2017": Counts(TRAIN2017), "unlabeled2017": Counts(UNLABELED2017)},
    ),
    Named(
        "imagenet-subset",
        "imagenet",
        "images",
        "as many of ImageNet's images as COCO has (Table 9)",
        {"train": Counts(TRAIN2017 + UNLABELED2017)},
        share="coco-size",
    ),
    Named(
        "imagenet",
        "imagenet",
        "labels",
        "ImageNet with its labels, for pretraining and the linear probe",
        {"train": Counts(IMAGENET_TRAIN), "val": Counts(50_000)},
        categories=1_000,
    ),
)


def named(name: str) -> Named:
    """Return the data set of a name.

    Raises:
        InputError: there is none.
    """
    found = next((item for item in NAMED if item.name == name), None)
    if found is None:
        names = ", ".join(item.name for item in NAMED)
        raise InputError(f"{name}: neither a folder nor the name of a data set; the names are {names}")
    return found

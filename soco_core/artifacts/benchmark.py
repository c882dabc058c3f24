"""A benchmark result: the numbers of ``metrics.json`` under the paper's column names."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soco_core.benchmarks.table import BOX_COLUMNS, MASK_COLUMNS
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.storage import read_text, write_text

COLUMNS = (*BOX_COLUMNS, *MASK_COLUMNS)
"""The paper's columns (Table 1): box and mask AP in percent, over IoU .50:.95, at .50 and at .75."""


def check_detector(recipe: Recipe) -> None:
    """Refuse, before hours are spent, a detector that what the recipe pretrains does not fit.

    SoCo-R50-C4 fits the C4 detectors; an FPN's pretraining fits all, and C4 detectors take its backbone alone.

    Raises:
        InputError: the recipe pretrains SoCo-R50-C4 for a detector with FPN, or a backbone without its fifth block.
    """
    model, detector = recipe.model, recipe.finetune.detector
    if model.architecture == "c4" and recipe.finetune.has_pyramid:
        raise InputError(
            f"finetune.detector: {detector} has an FPN, and recipe {recipe.name} pretrains SoCo-R50-C4 without one; "
            "set it to mask-rcnn-c4 or faster-rcnn-c4"
        )
    if not model.use_fpn and model.backbone_level == "C4":
        raise InputError(
            f"model.backbone_level: recipe {recipe.name} pretrains a backbone without its fifth block, which every "
            "detector here has; set it to C5"
        )


@dataclass(frozen=True)
class BenchmarkResult:
    """What one finetuning reached, and on what."""

    benchmark: str
    """Name of the benchmark, such as ``coco-fpn-1x``."""
    method: str
    """Row of the table: ``Scratch``, ``Supervised``, ``SoCo`` or another method of the paper's tables."""
    metrics: dict[str, float | None]
    """The paper's columns in percent; None where the data set has nothing to evaluate."""
    train_images: int
    val_images: int
    iterations: int
    batch_size: int
    seed: int
    initialisation: str
    """Where the weights came from, for people."""
    shortened: str = ""
    """How the benchmark was shortened, for people; empty: it was not."""
    details: dict[str, Any] = field(default_factory=dict)
    """More numbers of the evaluator, such as AP by size."""

    def write(self, path: Path) -> None:
        """Write ``metrics.json``."""
        write_text(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, place: str | Path) -> BenchmarkResult:
        """Read ``metrics.json``, given its path or S3 URI."""
        return cls(**json.loads(read_text(place)))

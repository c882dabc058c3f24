"""The paper's tables as data, and the settings that its numbers were reached with."""

from __future__ import annotations

from dataclasses import dataclass

from soco_core.artifacts.benchmark import COLUMNS

Numbers = tuple[float | None, float | None, float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class PaperBenchmark:
    """A benchmark of the paper and what its numbers rest on (4.2)."""

    name: str
    table: str
    title: str
    iterations: int
    batch_size: int = 16
    train_images: tuple[int, ...] = (118_287, 117_266)
    """Size of COCO train2017, and how many of its images have a box to train on."""
    val_images: int = 5_000


@dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables."""

    table: str
    benchmark: str
    method: str
    epochs: int | None
    """Epochs of pretraining; None for none."""
    metrics: dict[str, float | None]
    """Percent, by the names in `COLUMNS`; None where the paper has a dash."""


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        PaperBenchmark("coco-fpn-1x", "Table 1", "Mask R-CNN R50-FPN, COCO 1× schedule", iterations=90_000),
        PaperBenchmark("coco-fpn-2x", "Table 1", "Mask R-CNN R50-FPN, COCO 2× schedule", iterations=180_000),
    )
}

PRETRAINING_EPOCHS = (100, 400)
PRETRAINING_IMAGES = (1_270_000, 1_290_000)
"""ImageNet-1K is "~1.28 million" images (4.1); a copy may lack a few."""

# Method, pretraining epochs, 1x, 2x; in the order of COLUMNS. A schedule that the paper leaves empty is None.
_TABLE_1: tuple[tuple[str, int | None, Numbers | None, Numbers | None], ...] = (
    ("Scratch", None, (31.0, 49.5, 33.2, 28.5, 46.8, 30.4), (38.4, 57.5, 42.0, 34.7, 54.8, 37.2)),
    ("Supervised", 90, (38.9, 59.6, 42.7, 35.4, 56.5, 38.1), (41.3, 61.3, 45.0, 37.3, 58.3, 40.3)),
    ("MoCo", 200, (38.5, 58.9, 42.0, 35.1, 55.9, 37.7), (40.8, 61.6, 44.7, 36.9, 58.4, 39.7)),
    ("MoCo v2", 200, (40.4, 60.2, 44.2, 36.4, 57.2, 38.9), (41.7, 61.6, 45.6, 37.6, 58.7, 40.5)),
    ("InfoMin", 200, (40.6, 60.6, 44.6, 36.7, 57.7, 39.4), (42.5, 62.7, 46.8, 38.4, 59.7, 41.4)),
    ("BYOL", 300, (40.4, 61.6, 44.1, 37.2, 58.8, 39.8), (42.3, 62.6, 46.2, 38.3, 59.6, 41.1)),
    ("SwAV", 400, None, (42.3, 62.8, 46.3, 38.2, 60.0, 41.0)),
    ("ReSim-FPN^T", 200, (39.8, 60.2, 43.5, 36.0, 57.1, 38.6), (41.4, 61.9, 45.4, 37.5, 59.1, 40.3)),
    ("PixPro", 400, (41.4, 61.6, 45.4, None, None, None), None),
    ("InsLoc", 400, (42.0, 62.3, 45.8, 37.6, 59.0, 40.5), (43.3, 63.6, 47.3, 38.8, 60.9, 41.7)),
    ("DenseCL", 200, (40.3, 59.9, 44.3, 36.4, 57.0, 39.2), (41.2, 61.9, 45.1, 37.3, 58.9, 40.1)),
    ("DetCon_S", 1000, (41.8, None, None, 37.4, None, None), (42.9, None, None, 38.1, None, None)),
    ("DetCon_B", 1000, (42.7, None, None, 38.2, None, None), (43.4, None, None, 38.7, None, None)),
    ("SoCo", 100, (42.3, 62.5, 46.5, 37.6, 59.1, 40.5), (43.2, 63.3, 47.3, 38.8, 60.6, 41.9)),
    ("SoCo", 400, (43.0, 63.3, 47.1, 38.2, 60.2, 41.0), (44.0, 64.0, 48.4, 39.0, 61.3, 41.7)),
    ("SoCo*", 400, (43.2, 63.5, 47.4, 38.4, 60.2, 41.4), (44.3, 64.6, 48.9, 39.6, 61.8, 42.5)),
)

ROWS = tuple(
    PaperRow("Table 1", benchmark, method, epochs, dict(zip(COLUMNS, numbers, strict=True)))
    for column, benchmark in enumerate(("coco-fpn-1x", "coco-fpn-2x"))
    for method, epochs, *schedules in _TABLE_1
    if (numbers := schedules[column]) is not None
)


def paper_rows(benchmark: str) -> list[PaperRow]:
    """Return the paper's rows of a benchmark, in the paper's order; none if it is not the paper's."""
    return [row for row in ROWS if row.benchmark == benchmark]

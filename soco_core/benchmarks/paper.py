"""The paper's tables as data: the rows of a benchmark, and what pretraining its numbers rest on."""

from __future__ import annotations

from dataclasses import dataclass

from soco_core.benchmarks.paper_tables import NUMBERS
from soco_core.benchmarks.table import find_benchmark

PRETRAINING_EPOCHS = (100, 400)
PRETRAINING_IMAGES = (1_270_000, 1_290_000)
"""ImageNet-1K is "~1.28 million" images (4.1); a copy may lack a few."""


@dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables."""

    table: str
    benchmark: str
    method: str
    epochs: int | None
    """Epochs of pretraining; None for none, or where the paper does not say."""
    metrics: dict[str, float | None]
    """Percent, by the benchmark's columns; None where the paper has a dash."""


def paper_rows(benchmark: str) -> list[PaperRow]:
    """Return the paper's rows of a benchmark, in the paper's order; none if it is not the paper's."""
    found = find_benchmark(benchmark)
    if found is None:
        return []
    return [
        PaperRow(found.table, benchmark, method, epochs, dict(zip(found.columns, numbers, strict=True)))
        for method, epochs, *numbers in NUMBERS[benchmark]
    ]

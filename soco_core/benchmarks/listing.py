"""The benchmarks for people: a few lines each."""

from __future__ import annotations

from soco_core.benchmarks.paper import PaperRow, paper_rows
from soco_core.benchmarks.table import BENCHMARKS, Benchmark
from soco_core.config import FinetuneConfig
from soco_core.linear_config import LinearConfig

BASELINE = "Supervised"
WIDTH = 14


def listing() -> str:
    """Return name, table, schedule, engine and the paper's best SoCo row of every benchmark, as text."""
    return "\n".join(_lines(item) for item in BENCHMARKS)


def _lines(item: Benchmark) -> str:
    rows = paper_rows(item.name)
    best = max((row for row in rows if row.method.startswith("SoCo")), key=_headline)
    base = next((row for row in rows if row.method.startswith(BASELINE)), None)
    lines = [f"{item.title} ({item.table}; data set {item.data})", _schedule(item)]
    for row in (base, best):
        if row is not None:
            numbers = ", ".join(f"{name} {'–' if value is None else value}" for name, value in row.metrics.items())
            lines.append(f"paper: {row.method}, {row.epochs} epochs: {numbers}")
    name = f"{item.name:{WIDTH}}"
    return "\n".join(f"{name if number == 0 else '':{WIDTH}} {line}" for number, line in enumerate(lines))


def _headline(row: PaperRow) -> float:
    return next(iter(row.metrics.values())) or 0.0


def _schedule(item: Benchmark) -> str:
    if item.linear:
        linear = LinearConfig()
        return f"engine soco (`soco linear`); {linear.epochs} epochs, batch {linear.batch_size}"
    settings = FinetuneConfig(**item.settings)
    drops = " and ".join(f"{round(share * settings.iterations):,}" for share in settings.milestones)
    return (
        f"engine torchvision or detectron2, paper's {item.code_base}; {settings.iterations:,} iterations of "
        f"{settings.batch_size}, learning rate {settings.learning_rate:g}, drops at {drops}"
    )

"""One table per benchmark: our rows, the paper's rows, the gain over scratch, and what has to be said with it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from soco_core.benchmarks.paper import PaperRow, paper_rows
from soco_core.benchmarks.table import MMDETECTION, Benchmark, find_benchmark
from soco_core.report.runs import Difference, Run

Metrics = dict[str, float | None]
HEADLINES = {"APbb": "Box AP", "top1": "Top-1 accuracy"}
ACCURACIES = {"top1": "top-1", "top5": "top-5", "knn": "k-NN"}


@dataclass(frozen=True)
class Heading:
    """How a column is named: ``APbb50`` is AP with bb above and 50 below."""

    text: str
    above: str = ""
    below: str = ""


def heading(column: str) -> Heading:
    """Return how a column is named for people."""
    if column in ACCURACIES:
        return Heading(ACCURACIES[column])
    kind = column[2:4] if column[2:4] in {"bb", "mk"} else ""
    return Heading("AP", kind, column[2 + len(kind) :])


@dataclass(frozen=True)
class Gain:
    """A method's metrics minus those of Scratch, in percentage points."""

    label: str
    metrics: Metrics


@dataclass(frozen=True)
class DifferenceGroup:
    """What some runs of a table have in common in which they are not as the paper's."""

    runs: str
    """Which runs, for people."""
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Table:
    """All that the report says of one benchmark."""

    benchmark: str
    paper: Benchmark | None
    runs: tuple[Run, ...]
    paper_rows: tuple[PaperRow, ...]
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]
    headline: str

    def label(self, run: Run) -> str:
        """Name of a row: the method, and the seed where that alone does not tell rows apart."""
        several = sum(other.result.method == run.result.method for other in self.runs) > 1
        return f"{run.result.method}, seed {run.result.seed}" if several else run.result.method

    @property
    def columns(self) -> tuple[str, ...]:
        """The paper's columns, then those that only our runs have."""
        ours = (name for run in self.runs for name in run.result.metrics)
        return tuple(dict.fromkeys((*(self.paper.columns if self.paper else ()), *ours)))

    @property
    def legend(self) -> str:
        """What the columns are."""
        if self.columns[0] in ACCURACIES:
            return "Accuracy in percent."
        of = "boxes (bb) and masks (mk)" if any(name.startswith("APmk") for name in self.columns) else "boxes (bb)"
        text = f"Average precision in percent, of {of}: over IoU .50 to .95, at .50, at .75"
        if any(name.endswith("r") for name in self.columns):
            text += "; of rare (r), common (c) and frequent (f) categories"
        return f"{text}."

    @property
    def comparable(self) -> bool:
        """Whether every row of ours may stand beside the paper's numbers."""
        return self.paper is not None and not any(run.shortened for run in self.runs)

    @property
    def difference_groups(self) -> tuple[DifferenceGroup, ...]:
        """The differences to the paper: first what all runs share, then what only some have."""
        holders: dict[Difference, tuple[str, ...]] = {}
        for run in self.runs:
            for difference in run.differences:
                holders[difference] = (*holders.get(difference, ()), self.label(run))
        groups: dict[tuple[str, ...], tuple[Difference, ...]] = {}
        for difference, labels in holders.items():
            groups[labels] = (*groups.get(labels, ()), difference)
        return tuple(
            DifferenceGroup(self._named(labels), differences)
            for labels, differences in sorted(groups.items(), key=lambda item: -len(item[0]))
        )

    def _named(self, labels: tuple[str, ...]) -> str:
        """Name several rows: a method stands for all of its seeds."""
        if len(labels) == len(self.runs):
            return "all runs"
        names: list[str] = []
        for method, group in groupby(self.runs, key=lambda run: run.result.method):
            own = [self.label(run) for run in group]
            names += [method] if set(own) <= set(labels) else [label for label in own if label in labels]
        return ", ".join(names)


def build_tables(runs: list[Run]) -> list[Table]:
    """Make a table for each benchmark, in the order of the names."""
    return [_table(name, tuple(group)) for name, group in groupby(runs, key=lambda run: run.result.benchmark)]


def shown(value: float | None, *, signed: bool = False) -> str:
    """Write a number as the paper does: one decimal, a dash for none; a true minus sign."""
    if value is None:
        return "–"
    return f"{value:+.1f}".replace("-", "−") if signed else f"{value:.1f}"


def _table(benchmark: str, runs: tuple[Run, ...]) -> Table:
    gains, apart = _gains(runs)
    paper = find_benchmark(benchmark)
    notes = [*_paper_notes(benchmark, runs), *apart]
    if any(value is None for run in runs for value in run.result.metrics.values()):
        notes.append("A dash means that the evaluated images hold nothing to measure this on.")
    if len({run.result.seed for run in runs}) == 1:
        notes.append(
            f"Every row is a single run with seed {runs[0].result.seed}. How far another seed would fall from it "
            "was not measured, so a small difference may be chance."
        )
    return Table(benchmark, paper, runs, tuple(paper_rows(benchmark)), gains, tuple(notes), _headline(runs, gains))


def _paper_notes(benchmark: str, runs: tuple[Run, ...]) -> list[str]:
    shortened = [run for run in runs if run.shortened]
    paper = find_benchmark(benchmark)
    if paper is None:
        notes = [
            f"“{benchmark}” is not a benchmark of the paper: its images, its classes and how long it trains are its "
            "own. No number of the paper can stand beside these, so none is shown."
        ]
        if shortened:
            notes.append("Rows marked “shortened” are the paper's method made smaller; what differs is listed below.")
        return notes
    notes = []
    if paper.code_base == MMDETECTION:
        notes.append(
            "The paper used MMDetection for this detector, with its default settings; here its schedule and settings "
            "are taken over, its code is not."
        )
    if shortened:
        notes.append(
            "Rows marked “shortened” were not reached with the paper's data, schedule or model (what differs "
            "is listed below). They cannot be compared with the paper's numbers; those are shown for reference only."
        )
    return notes


def _gains(runs: tuple[Run, ...]) -> tuple[tuple[Gain, ...], list[str]]:
    """Subtract Scratch from every other method, seed by seed, where nothing but the initial weights differs."""
    scratch = {run.result.seed: run for run in runs if run.result.method == "Scratch"}
    gains: list[Gain] = []
    notes: list[str] = []
    others = [run for run in runs if run.result.method != "Scratch"]
    if others and not scratch:
        notes.append("No run from scratch was given, so there is no difference to show.")
        return (), notes
    for method, group in groupby(others, key=lambda run: run.result.method):
        found: list[Metrics] = []
        for run in group:
            base = scratch.get(run.result.seed)
            label = f"{method} − Scratch"
            if base is None:
                notes.append(f"{label}: no run from scratch has seed {run.result.seed}.")
            elif base.setting != run.setting:
                notes.append(
                    f"{label}, seed {run.result.seed}: not shown. The two differ in more than their initial weights."
                )
            else:
                found.append(_minus(run.result.metrics, base.result.metrics))
                gains.append(Gain(f"{label}, seed {run.result.seed}" if len(scratch) > 1 else label, found[-1]))
        if len(found) > 1:
            gains.append(Gain(f"{method} − Scratch, mean of {len(found)} seeds", _mean(found)))
    return tuple(gains), notes


def _minus(a: Metrics, b: Metrics) -> Metrics:
    pairs = {name: (value, b.get(name)) for name, value in a.items()}
    return {name: None if x is None or y is None else x - y for name, (x, y) in pairs.items()}


def _mean(several: list[Metrics]) -> Metrics:
    columns = {name: [metrics.get(name) for metrics in several] for name in several[0]}
    return {
        name: None if any(value is None for value in values) else sum(v for v in values if v is not None) / len(values)
        for name, values in columns.items()
    }


def _headline(runs: tuple[Run, ...], gains: tuple[Gain, ...]) -> str:
    main = next(iter(runs[0].result.metrics))
    parts = []
    for method, group in groupby(runs, key=lambda run: run.result.method):
        parts.append(f"{method} {', '.join(shown(run.result.metrics.get(main)) for run in group)}")
    text = f"{HEADLINES.get(main, main)}: {'; '.join(parts)}."
    last = {gain.label.partition(",")[0]: gain for gain in gains}
    for label, gain in last.items():
        mean = gain.label.partition(",")[2]
        text += f" {label}{' (' + mean.strip() + ')' if 'mean' in mean else ''}: "
        text += f"{shown(gain.metrics[main], signed=True)} points."
    return f"{text} {_extent(runs)}"


def _extent(runs: tuple[Run, ...]) -> str:
    """Say on how much the runs rest, if that is the same for all."""
    extents = {(run.result.train_images, run.result.iterations, run.result.val_images) for run in runs}
    if len(extents) > 1:
        return "The runs were not trained and evaluated on the same."
    train_images, iterations, val_images = extents.pop()
    return f"Trained on {train_images:,} images for {iterations:,} iterations, evaluated on {val_images:,}."

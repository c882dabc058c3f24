"""Charts of the report, and the pictures that it takes over from other results."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.artifacts.metrics import read_metrics
from soco_core.plotting import from_zero, png
from soco_core.report.runs import Run
from soco_core.report.tables import Table, heading, shown
from soco_core.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

METRICS = "metrics.jsonl"
# Okabe and Ito's colours: told apart by colour-blind readers and in print.
COLOURS = {"Scratch": "#7f7f7f", "Supervised": "#009E73", "SoCo": "#0072B2"}
OTHER_COLOURS = ("#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
BARS_WITH_NUMBERS = 4
"""More bars than these are too narrow for a number above each."""
SMOOTHING = 0.03
"""Share of a curve's steps that the moving average spans."""


@dataclass(frozen=True)
class Figure:
    """A picture of the report."""

    file: str
    """Path relative to the report, such as ``figures/views.png``."""
    caption: str


def copy_picture(source: Path, report: Path, name: str, caption: str) -> list[Figure]:
    """Copy another result's picture into the report; no figure if that result has none."""
    if not source.is_file():
        return []
    file = f"figures/{name}.png"
    write_bytes(report / file, source.read_bytes())
    return [Figure(file, caption)]


def slug(text: str) -> str:
    """Return `text` as a part of a file name; ``SoCo*`` and ``SoCo`` stay apart."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("*", "-star")).strip("-")


def draw_pretraining(folder: Path, report: Path, least_loss: int) -> list[Figure]:
    """Draw loss, learning rate, EMA coefficient and spread of a pretraining from its ``metrics.jsonl``.

    Args:
        folder: of the pretraining.
        report: where the figure is written to.
        least_loss: what its loss cannot fall below, -4 for each view beyond the first.
    """
    entries = read_metrics(folder / METRICS)
    if not entries:
        return []
    canvas = _canvas(8, 5.6)
    axes: dict[str, Axes] = canvas.subplot_mosaic(
        [["loss"] * 3, ["learning_rate", "ema", "embedding_std"]], height_ratios=[1.6, 1]
    )
    titles = {
        "loss": f"loss (at least {least_loss})".replace("-", "−"),
        "learning_rate": "learning rate",
        "ema": "EMA coefficient τ",
        "embedding_std": "spread of embeddings",
    }
    averaged = {}
    for name, title in titles.items():
        averaged[name] = _curve(axes[name], entries, name, COLOURS["SoCo"], smoothed=name == "loss")
        axes[name].set_title(title, fontsize=10, loc="left")
        axes[name].set_xlabel("step", fontsize=9)
    from_zero(axes["embedding_std"], 1.0)
    return _save(
        canvas,
        report,
        "pretraining",
        f"Pretraining by step: the loss ({_lines([averaged['loss']], 'step')}), the learning rate, the coefficient "
        "with which the target network follows the online one, and the spread of the embeddings (0: all collapsed into "
        "one point; 1: evenly over the sphere).",
    )


def draw_finetuning(table: Table, report: Path) -> list[Figure]:
    """Draw the training losses of all runs of a benchmark in one chart."""
    curves = [(run, read_metrics(run.path / METRICS)) for run in table.runs]
    curves = [(run, entries) for run, entries in curves if entries]
    if not curves:
        return []
    canvas = _canvas(8, 3.6)
    axes = canvas.subplots()
    colours = _colours(table.runs)
    named: set[str] = set()
    averaged = []
    for run, entries in curves:
        method = run.result.method
        # Several seeds of a method are curves of one colour, named once.
        label = None if method in named else method
        named.add(method)
        averaged.append(_curve(axes, entries, "loss", colours[method], smoothed=True, label=label))
    axes.set(xlabel="iteration", ylabel="training loss")
    _legend_above(axes)
    linear = table.paper is not None and table.paper.linear
    loss = "the classifier" if linear else "the detector, all terms together"
    return _save(
        canvas,
        report,
        f"{slug(table.benchmark)}-loss",
        f"{table.benchmark}: training loss of {loss} ({_lines(averaged, 'iteration')}).",
    )


def draw_bars(table: Table, report: Path) -> list[Figure]:
    """Draw the AP of our runs, beside the paper's where that comparison is valid."""
    colours = _colours(table.runs)
    methods = [run.result.method for run in table.runs]
    bars = [(run.result.method, run.result.metrics, colours[run.result.method], "") for run in table.runs]
    if table.comparable:
        bars += [
            (f"paper: {row.method} {row.epochs or ''}".strip(), row.metrics, colours[row.method], "///")
            for row in table.paper_rows
            if row.method in methods
        ]
    canvas = _canvas(8, 3.6)
    axes = canvas.subplots()
    width = 0.8 / len(bars)
    for number, (label, metrics, colour, hatch) in enumerate(bars):
        values = [metrics.get(name) for name in table.columns]
        places = [i - 0.4 + width * (number + 0.5) for i in range(len(table.columns))]
        style: dict[str, Any] = {"facecolor": "white", "hatch": hatch} if hatch else {"facecolor": colour}
        name = None if any(other == label for other, *_ in bars[:number]) else label
        drawn = axes.bar(places, [value or 0.0 for value in values], width * 0.9, label=name, edgecolor=colour, **style)
        if len(bars) <= BARS_WITH_NUMBERS:
            axes.bar_label(drawn, [shown(value) for value in values], fontsize=7, padding=1.5)
    axes.set_xticks(range(len(table.columns)), [_math(name) for name in table.columns])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("percent")
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    _legend_above(axes)
    return _save(
        canvas,
        report,
        f"{slug(table.benchmark)}-ap",
        f"{table.benchmark}: {table.legend}" + (" The paper's are hatched." if table.comparable else ""),
    )


def _legend_above(axes: Axes) -> None:
    """Name the methods above the axes, where the names cover nothing."""
    legend = axes.legend(frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    for name in legend.get_texts():
        name.set_parse_math(False)


def _lines(averaged: list[bool], each: str) -> str:
    """Say what the lines of a chart are, by which of its curves have a moving average."""
    if not any(averaged):
        return f"each {each}"
    short = "" if all(averaged) else f"; a short run has one line, each {each}"
    return f"faint: each {each}; bold: moving average{short}"


def _math(column: str) -> str:
    """Typeset a column's name: APbb50 has bb above and 50 below."""
    head = heading(column)
    if not head.above and not head.below:
        return head.text
    return rf"{head.text}$^{{\mathrm{{{head.above}}}}}_{{\mathrm{{{head.below}}}}}$"


def _colours(runs: tuple[Run, ...]) -> dict[str, str]:
    others = [method for method in dict.fromkeys(run.result.method for run in runs) if method not in COLOURS]
    return COLOURS | {method: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, method in enumerate(others)}


def _canvas(width: float, height: float) -> Canvas:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _curve(
    axes: Axes,
    entries: list[dict[str, Any]],
    name: str,
    colour: str,
    *,
    smoothed: bool,
    label: str | None = None,
) -> bool:
    """Draw a column of the entries; tell whether a moving average is drawn, which few steps have not."""
    import numpy as np

    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    span = max(1, round(len(values) * SMOOTHING)) if smoothed else 1
    if span > 1:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        totals = np.cumsum(np.concatenate([[0.0], values]))
        ends = np.arange(1, len(values) + 1)
        starts = np.maximum(ends - span, 0)
        values = (totals[ends] - totals[starts]) / (ends - starts)
    axes.plot(steps, values, color=colour, linewidth=1.6, label=label)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return span > 1


def _save(canvas: Canvas, report: Path, name: str, caption: str) -> list[Figure]:
    file = f"figures/{name}.png"
    for axes in canvas.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    write_bytes(report / file, png(canvas, 140))
    return [Figure(file, caption)]

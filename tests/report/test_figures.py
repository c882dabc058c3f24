"""The charts: what their titles, lines, legends and captions say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.metrics import MetricsWriter
from soco_core.artifacts.result import open_result
from soco_core.config import Recipe
from soco_core.recipes import load_recipe
from soco_core.report.figures import draw_bars, draw_finetuning, draw_pretraining
from soco_core.report.runs import Run
from soco_core.report.stage import report
from soco_core.report.tables import build_tables
from tests.charts import check_legend_covers_nothing, check_lines_seen, drawn

if TYPE_CHECKING:
    from conftest import Results


def write_pretraining(folder: Path, steps: int, spread: float = 0.8) -> None:
    with MetricsWriter(folder / "metrics.jsonl", 0) as metrics:
        for step in range(steps):
            metrics.write(step, {"loss": -step / 10, "learning_rate": 0.1, "ema": 0.99, "embedding_std": spread})


def run(results: Results, method: str, steps: int) -> Run:
    directory = open_result(results.finetune(method, (30.0,)))
    with MetricsWriter(directory.path / "metrics.jsonl", 0) as metrics:
        for step in range(steps):
            metrics.write(step, {"loss": 3 / (1 + step)})
    return Run(BenchmarkResult.read(directory.path / "metrics.json"), directory, ())


@pytest.mark.parametrize(
    ("name", "least", "sizes"),
    [
        ("soco-c4-100ep", "−4", "224, 224 px"),
        ("soco-fpn-100ep", "−8", "224, 224, 112 px"),
        ("soco-star-400ep", "−12", "224, 224, 112, 192 px"),
    ],
)
def test_the_least_loss_and_the_views_are_those_of_the_pretraining(
    results: Results, monkeypatch: pytest.MonkeyPatch, name: str, least: str, sizes: str
) -> None:
    pretrained = results.pretrain(results.proposals(), load_recipe(name))
    pages = []
    figure = drawn(
        monkeypatch,
        lambda: pages.append(report(Recipe(), benchmarks=[], pretrained=pretrained, output=str(results.folder))),
    )
    assert figure.axes[0].get_title("left") == f"loss (at least {least})"
    assert json.loads((pages[0].path / "results.json").read_text())["pretraining"]["view sizes"] == sizes


@pytest.mark.parametrize(("spread", "top"), [(0.0, 1.0), (0.8, 1.0), (1.3, 1.3)])
def test_the_spread_is_seen_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float, top: float) -> None:
    write_pretraining(tmp_path, 40, spread)
    figure = drawn(monkeypatch, lambda: draw_pretraining(tmp_path, tmp_path, -8))
    for axes in figure.axes:
        check_lines_seen(axes)
    spreads = figure.axes[3]
    assert spreads.get_title("left") == "spread of embeddings"
    low, high = spreads.get_ylim()
    assert (low < 0, top < high) == (True, True)
    assert high < 1.1 * top


@pytest.mark.parametrize(
    ("steps", "lines", "said"), [(40, 1, "the loss (each step)"), (60, 2, "(faint: each step; bold: moving average)")]
)
def test_a_caption_says_which_lines_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, lines: int, said: str
) -> None:
    write_pretraining(tmp_path, steps)
    captions: list[str] = []
    figure = drawn(
        monkeypatch, lambda: captions.extend(each.caption for each in draw_pretraining(tmp_path, tmp_path, -8))
    )
    assert len(figure.axes[0].lines) == lines
    assert said in captions[0]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((40, 40), "(each iteration)"),
        ((60, 60), "(faint: each iteration; bold: moving average)"),
        ((60, 40), "(faint: each iteration; bold: moving average; a short run has one line, each iteration)"),
    ],
)
def test_the_losses_of_a_benchmark_lie_bare(
    results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps: tuple[int, int], said: str
) -> None:
    runs = [run(results, method, count) for method, count in zip(("Scratch", "SoCo"), steps, strict=True)]
    captions: list[str] = []
    figure = drawn(
        monkeypatch,
        lambda: captions.extend(each.caption for each in draw_finetuning(build_tables(runs)[0], tmp_path / "page")),
    )
    (axes,) = figure.axes
    check_lines_seen(axes)
    check_legend_covers_nothing(axes)
    assert captions[0].endswith(f"all terms together {said}.")


def test_the_name_of_a_method_is_no_formula(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """``$_$`` is none that matplotlib knows, and its font has no such letter as the other one."""
    (table,) = build_tables([run(results, "a $_$ \u540d", 3)])
    for draw in (draw_finetuning, draw_bars):
        figure = drawn(monkeypatch, partial(draw, table, tmp_path))
        (name,) = figure.axes[0].get_legend().get_texts()  # type: ignore[union-attr]
        assert name.get_text() == "a $_$ \u540d"

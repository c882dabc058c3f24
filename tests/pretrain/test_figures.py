"""The curves of a pretraining as a reader sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from soco_core.artifacts.metrics import MetricsWriter
from soco_core.pretrain.figures import draw_curves
from tests.charts import check_legend_covers_nothing, check_lines_seen, drawn


def write(folder: Path, views: int = 3) -> None:
    """Write curves that leave no place of their chart free."""
    terms = [name for j in range(2, views + 1) for name in (f"loss_1_to_{j}", f"loss_{j}_to_1")]
    with MetricsWriter(folder / "metrics.jsonl", 0) as metrics, MetricsWriter(folder / "speed.jsonl", 0) as speed:
        for step in range(40):
            share = step % 5 / 5
            metrics.write(
                step,
                {
                    "loss": -8 * share,
                    **dict.fromkeys(terms, -2 * (1 - share)),
                    "boxes_P2": share,
                    "boxes_P3": 1 - share,
                    "boxes_P4": 0.0,
                    "boxes_P5": 0.0,
                    "unusable_images": 0.0,
                    "embedding_std": 0.8 + step / 1000,
                    "gradient_norm": 13.0 - step / 10,
                    "learning_rate": step / 39,
                    "ema": 0.99,
                    "loss_scale": 65536.0,
                },
            )
            speed.write(step, {"seconds_per_step": 1.0, "images_per_second": 8.0})


@pytest.mark.parametrize("views", [2, 3, 4])
def test_no_line_is_cut_or_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int) -> None:
    write(tmp_path, views)
    figure = drawn(monkeypatch, lambda: draw_curves(tmp_path / "loss.png", tmp_path))
    charts = {axes.get_title(): axes for axes in figure.axes}
    assert len(charts) == 9
    for axes in charts.values():
        check_lines_seen(axes)
    for title in ("loss and its terms", "share of boxes on each level"):
        check_legend_covers_nothing(charts[title])
    for title in ("spread of embeddings", "share of images without usable boxes"):
        assert 1 < charts[title].get_ylim()[1] < 1.1
    # A small change looks small.
    for title in charts.keys() - {"loss and its terms", "EMA coefficient"}:
        assert charts[title].get_ylim()[0] < 0


@pytest.mark.parametrize("values", [[], [float("inf")], [float("nan"), float("inf")]])
def test_what_has_no_finite_value_has_an_empty_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[float]
) -> None:
    with MetricsWriter(tmp_path / "speed.jsonl", 0) as speed:
        for step, value in enumerate(values):
            speed.write(step, {"images_per_second": value})
    figure = drawn(monkeypatch, lambda: draw_curves(tmp_path / "loss.png", tmp_path))
    assert 1 < figure.axes[0].get_ylim()[1] < 1.1

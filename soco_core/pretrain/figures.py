"""Pictures of a pretraining: its first views and its curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from soco_core.artifacts.metrics import read_metrics
from soco_core.engine.records import METRICS, SPEED
from soco_core.plotting import from_zero, png
from soco_core.pretrain.data import ViewDataset
from soco_core.storage import write_bytes
from soco_core.views.draw import PicturedImage, draw_views

SPREAD = "spread of embeddings"
"""About 1 where they lie evenly, which the axis always reaches."""


def draw_first_views(path: Path, dataset: ViewDataset, count: int) -> None:
    """Draw the views that the first epoch makes of `count` images, spread evenly over the set."""
    total = len(dataset.proposals)
    numbers = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})
    draw_views(path, pictured(dataset, numbers), dataset.recipe)


def draw_curves(path: Path, folder: Path) -> None:
    """Draw all that was watched, over the steps.

    Args:
        path: the PNG.
        folder: where ``metrics.jsonl`` and ``speed.jsonl`` lie.
    """
    from matplotlib.figure import Figure

    metrics, speed = read_metrics(folder / METRICS), read_metrics(folder / SPEED)
    names = list(dict.fromkeys(name for entry in metrics for name in entry))
    curves = {
        "loss and its terms": [name for name in names if name.startswith("loss") and name != "loss_scale"],
        "learning rate": ["learning_rate"],
        "EMA coefficient": ["ema"],
        SPREAD: ["embedding_std"],
        "gradient norm": ["gradient_norm"],
        "share of boxes on each level": [name for name in names if name.startswith("boxes_")],
        "share of images without usable boxes": ["unusable_images"],
        "loss scale": [name for name in names if name == "loss_scale"],
        "images per second": ["images_per_second"],
    }
    drawn = {title: chosen for title, chosen in curves.items() if chosen}
    rows = -(-len(drawn) // 3)
    figure = Figure(figsize=(13, 3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axis, (title, chosen) in zip(axes, drawn.items(), strict=False):
        entries = speed if title == "images per second" else metrics
        for name in chosen:
            width = 2 if name == "loss" else 1
            # One that goes on in another precision has a loss scale for some of its steps only.
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=width)
        axis.set(title=title, xlabel="step")
        if title not in ("loss and its terms", "EMA coefficient"):
            from_zero(axis, 1.0 if title == SPREAD else 0.0)
        axis.grid(alpha=0.3)
        if len(chosen) > 1:
            # Beside the axes: within them no place is free of curves for certain.
            axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    write_bytes(path, png(figure, 90))


def pictured(dataset: ViewDataset, numbers: Sequence[int]) -> list[PicturedImage]:
    """Return images of the set, by number, to draw their views."""
    proposals = dataset.proposals
    return [PicturedImage(proposals.id(n), dataset.image(n), proposals.boxes(n), n) for n in numbers]

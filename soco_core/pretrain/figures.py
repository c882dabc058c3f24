"""Pictures of a pretraining: its first views and its curves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import default_collate

from soco_core.artifacts.metrics import read_metrics
from soco_core.pretrain.data import ViewDataset
from soco_core.pretrain.trainer import prepare
from soco_core.storage import atomic_file
from soco_core.views.draw import draw_views


def draw_first_views(path: Path, dataset: ViewDataset, count: int) -> None:
    """Draw the views that the first epoch makes of `count` images, spread evenly over the set."""
    total = len(dataset.proposals)
    numbers = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})
    batch = default_collate([dataset[0, number] for number in numbers])
    views = prepare(batch, torch.device("cpu"))
    draw_views(path, views, [dataset.proposals.id(number) for number in numbers], dataset.recipe)


def draw_curves(path: Path, metrics: Path) -> None:
    """Draw loss, learning rate and EMA coefficient, and the spread of the embeddings over steps."""
    from matplotlib.figure import Figure

    entries = read_metrics(metrics)
    steps = [entry["step"] for entry in entries]
    curves = {
        "loss": [name for name in entries[0] if name.startswith("loss")],
        "learning rate": ["learning_rate"],
        "EMA coefficient": ["ema"],
        "embedding spread": ["embedding_std"],
    }
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axis, (title, names) in zip(figure.subplots(2, 2).flat, curves.items(), strict=True):
        for name in names:
            axis.plot(steps, [entry[name] for entry in entries], label=name, linewidth=2 if name == "loss" else 1)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=7)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=90, metadata={"Software": None})

"""What a pretraining that diverged leaves, so that its cause can be found."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soco_core.artifacts.result import ResultDirectory
from soco_core.pretrain.data import Key, ViewDataset
from soco_core.pretrain.figures import pictured
from soco_core.storage import write_text
from soco_core.views.draw import draw_views

PICTURED_IMAGES = 4
LISTED_TENSORS = 20


def dump_divergence(
    result: ResultDirectory,
    dataset: ViewDataset,
    batch: Sequence[Sequence[Key]],
    report: dict[str, Any],
    step: int,
) -> Path:
    """Write ``diverged/step-N/``: ``report.json``, and ``views.png`` with the first images of the batch.

    Args:
        result: the result directory.
        dataset: draws the views again: they depend on epoch and image alone.
        batch: the images of the step, those of each process.
        report: loss, its terms and the like, plain JSON; numbers that are not finite are written as text.
        step: the step, from 0.

    Returns:
        The folder.
    """
    folder = result.path / "diverged" / f"step-{step}"
    epoch = batch[0][0][0]
    images = [[dataset.proposals.id(number) for _, number in part] for part in batch]
    text = json.dumps(_finite({"step": step, "epoch": epoch, **report, "images": images}), indent=2, allow_nan=False)
    write_text(folder / "report.json", text + "\n")
    result.publish(folder / "report.json")
    shown = [number for part in batch for _, number in part][:PICTURED_IMAGES]
    draw_views(folder / "views.png", pictured(dataset, shown), dataset.recipe, epoch)
    result.publish(folder / "views.png")
    return folder


def largest_gradients(network: nn.Module, norms: torch.Tensor) -> list[dict[str, Any]]:
    """List the tensors with the largest gradients, those that are not finite first.

    Args:
        network: its trained tensors that have a gradient are those of `norms`.
        norms: norms of their gradients, in the order of ``named_parameters``.
    """
    tensors = [(name, p) for name, p in network.named_parameters() if p.grad is not None]
    weights = torch.stack([p.detach().float().norm() for _, p in tensors]).tolist()
    rows = [
        {"tensor": name, "shape": " x ".join(map(str, p.shape)), "gradient_norm": norm, "weight_norm": weight}
        for (name, p), norm, weight in zip(tensors, norms.tolist(), weights, strict=True)
    ]
    return sorted(rows, key=lambda row: (math.isfinite(row["gradient_norm"]), -row["gradient_norm"]))[:LISTED_TENSORS]


def _finite(value: Any) -> Any:
    """Replace numbers that JSON has no word for by their names."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

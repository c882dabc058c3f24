"""What is known of the step at which a pretraining diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soco_core.artifacts.result import ResultDirectory
from soco_core.engine.divergence import dump_divergence
from soco_core.pretrain.data import Key, ViewDataset
from soco_core.pretrain.figures import pictured
from soco_core.views.draw import draw_views

PICTURED_IMAGES = 4
LISTED_TENSORS = 20


def dump_views(
    result: ResultDirectory,
    dataset: ViewDataset,
    batch: Sequence[Sequence[Key]],
    report: dict[str, Any],
    step: int,
) -> str:
    """Write ``diverged/step-N/`` (:func:`soco_core.engine.divergence.dump_divergence`) with the batch's first views.

    Args:
        result: the result directory.
        dataset: draws the views again: they depend on epoch and image alone.
        batch: the images of the step, those of each process.
        report: loss, its terms and the like, plain JSON.
        step: the step, from 0.

    Returns:
        Where it lies, for a message.
    """
    epoch = batch[0][0][0]
    images = [[dataset.proposals.id(number) for _, number in part] for part in batch]
    shown = [number for part in batch for _, number in part][:PICTURED_IMAGES]

    def draw(path: Path) -> None:
        draw_views(path, pictured(dataset, shown), dataset.recipe, epoch)

    return dump_divergence(result, step, lambda: {"epoch": epoch, **report, "images": images}, draw)


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

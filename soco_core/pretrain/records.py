"""What the first process writes while the pretraining runs: curves, speed, progress, and the dump of a divergence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from soco_core.artifacts.metrics import MetricsWriter
from soco_core.artifacts.result import ResultDirectory
from soco_core.engine.progress import Progress
from soco_core.pretrain.data import Key, ViewDataset
from soco_core.storage import write_text
from soco_core.tracking import Tracker
from soco_core.views.draw import PicturedImage, draw_views

METRICS = "metrics.jsonl"
SPEED = "speed.jsonl"
"""Apart from the metrics, which are the same for the same recipe and images."""
PICTURED_IMAGES = 4
LISTED_TENSORS = 20


class Records:
    """Writes the curves of a training to the result directory, to MLflow and to the screen.

    Args:
        result: the result directory.
        tracker: gets a point of each curve every `log_steps`.
        log_steps: as in the recipe.
        total_steps, first_step: of the whole training, and those that an earlier attempt did.
    """

    def __init__(
        self, result: ResultDirectory, tracker: Tracker, log_steps: int, total_steps: int, first_step: int
    ) -> None:
        self.result, self.tracker = result, tracker
        self.log_steps, self.total_steps = log_steps, total_steps
        self.metrics = MetricsWriter(result.path / METRICS, first_step)
        self.speed = MetricsWriter(result.path / SPEED, first_step)
        self.progress = Progress("pretrain", total_steps, first_step, "steps")
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for part in (self.metrics, self.speed, self.progress):
            self._open.enter_context(part)
        return self

    def step(self, step: int, values: dict[str, float], speed: dict[str, float], note: str) -> None:
        """Write a finished step; `speed` is the mean over the steps that are written together."""
        self.metrics.write(step, values)
        self.speed.write(step, speed)
        if step % self.log_steps == 0 or step == self.total_steps - 1:
            self.tracker.log(step, {**values, **speed})
        self.progress.advance(note=note)

    def keep(self) -> None:
        """Bring all lines to disk, before the checkpoint that they belong to."""
        self.metrics.keep(self.result)
        self.speed.keep(self.result)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


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


def pictured(dataset: ViewDataset, numbers: Sequence[int]) -> list[PicturedImage]:
    """Return images of the set, by number, to draw their views."""
    proposals = dataset.proposals
    return [PicturedImage(proposals.id(n), dataset.image(n), proposals.boxes(n), n) for n in numbers]


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

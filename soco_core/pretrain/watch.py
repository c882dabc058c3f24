"""What is watched while the pretraining runs: measured in every process, added up, and judged the same in all."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from soco_core.config import ModelConfig, PretrainConfig
from soco_core.engine.distributed import Processes
from soco_core.models.backbone import LEVELS
from soco_core.models.regions import assign_levels
from soco_core.models.soco import ViewBatch

COLLAPSED_SPREAD = 0.1
"""Embeddings have collapsed below this spread; a healthy run keeps 0.6 and more."""
COLLAPSE_STEPS = 10
"""Steps over which the spread is averaged."""
LEAST_SCALE = 1.0
"""A loss scale below this no longer helps against overflow: the gradients themselves are not finite."""


class Measured(NamedTuple):
    """What was measured in one step."""

    step: int
    values: dict[str, float]
    """A line of ``metrics.jsonl``, without learning rate and EMA coefficient."""
    gradient_norms: Tensor
    """Of each trained tensor, float32 on the CPU."""


class Measurements:
    """Sums of each step, kept on the device until :meth:`read` fetches those of several steps at once.

    Args:
        config: the recipe's `model`; boxes have levels if it has more than one.
        processes: whose sums are added.
    """

    def __init__(self, config: ModelConfig, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._steps: list[tuple[int, Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, views: list[ViewBatch], usable: Tensor, terms: dict[str, Tensor], target: list[Tensor]) -> None:
        """Add one pass of this process.

        Args:
            views: what the networks saw.
            usable: which images have a usable box in any view, bool [N] on the CPU.
            terms: means over the pass's images, as of :func:`soco_core.pretrain.loss.soco_loss`.
            target: the target's embeddings, float [N, B, D] for each view.
        """
        images = len(usable)
        numbers = [images, int((~usable).sum()), sum(view.boxes[..., 0].numel() for view in views)]
        counts = torch.tensor([*numbers, *self._box_counts(views)], dtype=torch.float64)
        self._names = [name if name == "loss" else f"loss_{name}" for name in terms]
        losses = torch.stack(list(terms.values())).double() * images
        sums = torch.cat([counts.to(losses.device, non_blocking=True), losses, *spread_moments(target)])
        self._sums = sums if self._sums is None else self._sums + sums

    def close(self, step: int, gradient_norms: Tensor) -> None:
        """End a step; `gradient_norms` are those of each trained tensor, the same in all processes."""
        assert self._sums is not None
        self._steps.append((step, self._sums, gradient_norms))
        self._sums = None

    def read(self) -> list[Measured]:
        """Return the steps closed since the last call, over all processes; this waits for the device."""
        if not self._steps:
            return []
        sums = torch.stack([sums for _, sums, _ in self._steps])
        if self.processes.count > 1:
            import torch.distributed as dist

            dist.all_reduce(sums)
        norms = torch.stack([norms for _, _, norms in self._steps])
        steps, self._steps = [step for step, _, _ in self._steps], []
        totals = torch.linalg.vector_norm(norms, dim=1).tolist()
        return [
            Measured(step, {**self._values(row), "gradient_norm": total}, of_tensors)
            for step, row, total, of_tensors in zip(steps, sums.cpu(), totals, norms.cpu(), strict=True)
        ]

    def _box_counts(self, views: list[ViewBatch]) -> list[int]:
        """Boxes on each of P2..P5 in all views; none where there is one level only."""
        if not self._leveled:
            return []
        levels = torch.cat([assign_levels(view.boxes, self.config.level_limits).flatten() for view in views])
        return torch.bincount(levels, minlength=len(LEVELS)).tolist()

    @property
    def _leveled(self) -> bool:
        return self.config.architecture == "fpn" and self.config.scale_aware

    def _values(self, sums: Tensor) -> dict[str, float]:
        images, unusable, boxes = sums[:3].tolist()
        levels, rest = LEVELS if self._leveled else (), sums[3:]
        counts, losses, moments = rest.tensor_split([len(levels), len(levels) + len(self._names)])
        values = dict(zip(self._names, (losses / images).tolist(), strict=True))
        values |= {f"boxes_{name}": count / boxes for name, count in zip(levels, counts.tolist(), strict=True)}
        values["unusable_images"] = unusable / images
        totals, squares = moments.chunk(2)
        values["embedding_std"] = spread(totals, squares, boxes)
        return values


def spread_moments(embeddings: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums, and sums of squares, of the components of the unit embeddings [..., D]: float64 [D] each."""
    unit = torch.cat([F.normalize(view.detach().flatten(0, -2).float(), dim=-1) for view in embeddings]).double()
    return unit.sum(0), unit.square().sum(0)


def spread(sums: Tensor, squares: Tensor, count: float) -> float:
    """Tell how far embeddings are from collapsing.

    Args:
        sums, squares: of :func:`spread_moments`, over all passes and processes.
        count: how many embeddings they are of.

    Returns:
        The standard deviation over all embeddings of the components of the unit embeddings, averaged over
        components and multiplied by sqrt(D): 0 when all are equal, about 1 when they are spread evenly over the
        sphere.
    """
    variance = (squares / count - (sums / count).square()).clamp(min=0)
    return float(variance.sqrt().mean()) * len(sums) ** 0.5


def collapse(measured: Measured) -> str:
    """Say that the embeddings are collapsing, and what to look at."""
    return (
        f"the embeddings are collapsing at step {measured.step}: their spread is "
        f"{measured.values['embedding_std']:.3f} (0: all equal; healthy: above 0.5). Look at embedding_std and loss in "
        "metrics.jsonl and at figures/views.png; try a lower pretrain.base_learning_rate, or a higher "
        "pretrain.ema_start"
    )


class Watch:
    """Judges each step by what was measured; all processes see the same numbers and come to the same verdict.

    Args:
        config: its `divergence_steps`.
        warmup_steps: steps of the warm-up, whose losses do not count.
        skips: whether steps with gradients that are not finite are skipped (fp16).
    """

    def __init__(self, config: PretrainConfig, warmup_steps: int, skips: bool) -> None:
        self.warmup_steps, self.skips = warmup_steps, skips
        self.skipped_steps = 0
        self._losses: deque[float] = deque(maxlen=config.divergence_steps)
        self._best = math.inf
        self._spreads: deque[float] = deque(maxlen=COLLAPSE_STEPS)
        self._collapsed = False

    def diverged(self, measured: Measured, scale: float) -> str | None:
        """Take in a step; say what is wrong if the training cannot go on.

        Args:
            measured: the step.
            scale: the gradient scaler's, 1 without one.
        """
        loss, norm = measured.values["loss"], measured.values["gradient_norm"]
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            if not self.skips or scale < LEAST_SCALE:
                return f"the gradient norm is {norm} at a loss of {loss:.3f}"
            self.skipped_steps += 1
        if measured.step < self.warmup_steps:
            return None
        self._losses.append(loss)
        if len(self._losses) < (self._losses.maxlen or 0):
            return None
        mean = math.fsum(self._losses) / len(self._losses)
        self._best = min(self._best, mean)
        if self._best < 0 and mean > self._best / 2:
            return f"the loss over the last {len(self._losses)} steps is {mean:.3f}, after {self._best:.3f} at best"
        return None

    def collapsed(self, measured: Measured) -> bool:
        """Tell, once, that the embeddings of the last steps are nearly all the same."""
        self._spreads.append(measured.values["embedding_std"])
        low = len(self._spreads) == COLLAPSE_STEPS and sum(self._spreads) / COLLAPSE_STEPS < COLLAPSED_SPREAD
        if not low or self._collapsed:
            return False
        self._collapsed = True
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a later attempt goes on from, plain types."""
        return {
            "losses": list(self._losses),
            "best": self._best,
            "spreads": list(self._spreads),
            "collapsed": self._collapsed,
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._losses.extend(state["losses"])
        self._best, self._collapsed = state["best"], state["collapsed"]
        self._spreads.extend(state["spreads"])
        self.skipped_steps = state["skipped_steps"]

"""The training of the classifiers: SGD on fixed features, several learning rates on one forward pass (paper B)."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soco_core.config import Recipe
from soco_core.console import say
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import Finished
from soco_core.errors import SocoError
from soco_core.linear.crops import Files, TrainingCrops, epoch_batches, load
from soco_core.linear.networks import Backbone, Heads
from soco_core.linear.schedule import rate_factors

Batch = tuple[Tensor, Tensor]
"""Crops uint8 [N, 3, S, S] and labels int64 [N]."""


class LinearTraining:
    """The task `linear` of the training loop.

    Every process has one; they compute each batch together.

    Args:
        backbone: makes the features; it does not change.
        heads: a classifier for each of the recipe's learning rates, on the device.
        files: the training images.
        usable: numbers of those that can be read, int64 [N].
        recipe: the resolved recipe.
        processes: this one's place among them.

    Raises:
        SocoError: there are more processes than images in a batch.
    """

    name = "linear"
    saved_before = 0

    def __init__(
        self,
        backbone: Backbone,
        heads: Heads,
        files: Files,
        usable: NDArray[np.int64],
        recipe: Recipe,
        processes: Processes,
    ) -> None:
        self.backbone, self.heads, self.files, self.usable = backbone, heads, files, usable
        self.recipe, self.processes = recipe, processes
        config = recipe.linear
        self.images_per_step = min(config.batch_size, len(usable))
        if self.images_per_step < processes.count:
            raise SocoError(
                f"a batch of {self.images_per_step} images has none for some of {processes.count} processes; start at "
                f"most {self.images_per_step}, or raise linear.batch_size"
            )
        if self.images_per_step < config.batch_size and processes.first:
            say(
                f"warning: there are only {len(usable)} training images, fewer than linear.batch_size "
                f"({config.batch_size}): each step takes them all, and the learning rate stays as it is"
            )
        self.steps_per_epoch = len(usable) // self.images_per_step
        self.total_steps = config.epochs * self.steps_per_epoch
        self.factors = rate_factors(config, self.total_steps)
        groups = [
            {"params": list(head.parameters()), "lr": rate}
            for head, rate in zip(heads.each(), config.learning_rates, strict=True)
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
        self._unread: list[tuple[int, Tensor]] = []

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Load this process's part of each step's batch."""
        crops = TrainingCrops(self.files, self.recipe.linear, self.recipe.seed)
        steps = range(first_step, self.total_steps)
        batches = epoch_batches(self.usable, self.images_per_step, steps, self.recipe.seed)
        own = (batch[self.processes.rank :: self.processes.count] for batch in batches)
        yield from load(crops, own, self.recipe.runtime.workers, self.processes.device)

    def step(self, step: int, batch: Batch) -> None:
        """Update every classifier by its own loss: the gradient of their sum has no cross terms."""
        crops, labels = batch
        labels = labels.to(self.processes.device, non_blocking=True)
        logits = self.heads(self.backbone(crops))
        # Parts of the batch's mean: processes may have an image more or less than others.
        losses = torch.stack([F.cross_entropy(each, labels, reduction="sum") for each in logits]) / self.images_per_step
        hits = torch.stack([(each.argmax(1) == labels).sum() for each in logits]) / self.images_per_step
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        measured = torch.cat([losses.detach(), hits])
        if self.processes.count > 1:
            for parameter in self.heads.parameters():
                dist.all_reduce(parameter.grad)
            dist.all_reduce(measured)
        for group, rate in zip(self.optimizer.param_groups, self.recipe.linear.learning_rates, strict=True):
            group["lr"] = rate * float(self.factors[step])
        self.optimizer.step()
        self._unread.append((step, measured))

    def measured(self) -> Iterator[Finished]:
        """Yield the steps since the last call; stop, in all processes, at a loss that is not finite."""
        unread, self._unread = self._unread, []
        rates = self.recipe.linear.learning_rates
        for step, measured in unread:
            values = measured.tolist()
            losses, hits = values[: len(rates)], values[len(rates) :]
            for rate, loss in zip(rates, losses, strict=True):
                if not math.isfinite(loss):
                    self.processes.agree(
                        SocoError(
                            f"linear: the loss with learning rate {rate:g} is not finite at step {step}; take it out "
                            "of linear.learning_rates, or lower it"
                        )
                    )
            best = min(range(len(rates)), key=losses.__getitem__)
            line = {"loss": losses[best], "accuracy": 100 * hits[best], "rate_factor": float(self.factors[step])}
            if len(rates) > 1:
                line |= {f"loss/{rate:g}": loss for rate, loss in zip(rates, losses, strict=True)}
            yield Finished(step, line, f"loss {line['loss']:.3f}, {line['accuracy']:.1f} % of the batch")

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs and that is no function of the step and the recipe; the backbone is one."""
        return {
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precisions": self.backbone.precision.used,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, or from the beginning if it is empty."""
        if state:
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.backbone.precision.go_on({}, state.get("precisions", ()))

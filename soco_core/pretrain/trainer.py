"""The training loop of the pretraining; it reads as the method does (paper 3.3, 4.1)."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from soco_core.artifacts.metrics import MetricsWriter, read_metrics
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.engine.checkpoints import Checkpointer
from soco_core.engine.interrupt import InterruptGuard
from soco_core.engine.progress import Progress
from soco_core.engine.setup import choose_device, seed_everything
from soco_core.errors import InputError, SocoError
from soco_core.models.soco import SoCo, ViewBatch
from soco_core.pretrain.data import EpochBatches, ViewDataset, view_loader
from soco_core.pretrain.lars import LARS
from soco_core.pretrain.loss import embedding_spread, soco_loss
from soco_core.pretrain.schedules import ema_coefficients, learning_rates
from soco_core.tracking import Tracker
from soco_core.views.augment import augment
from soco_core.views.construct import View


class Trainer:
    """Trains one pair of networks on one image set, from its last checkpoint if there is one.

    Args:
        recipe: the resolved recipe.
        dataset: views by (epoch, image).
        result: the result directory; metrics and checkpoints go there.
        tracker: gets the curves.
    """

    def __init__(self, recipe: Recipe, dataset: ViewDataset, result: ResultDirectory, tracker: Tracker) -> None:
        self.recipe, self.dataset, self.result, self.tracker = recipe, dataset, result, tracker
        config = recipe.pretrain
        self.device = choose_device(recipe.runtime.device)
        seed_everything(recipe.seed)
        self.networks = SoCo(recipe.model).to(self.device)
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = LARS(
            self.networks.online.parameters(),
            lr=0.0,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            trust_coefficient=config.trust_coefficient,
        )
        if len(dataset.proposals) < 2:
            raise InputError(
                f"{dataset.source.root}: only one usable image; batch norm needs at least two, so add more"
            )
        self.batch_size = min(config.batch_size, len(dataset.proposals))
        if self.batch_size < config.batch_size:
            say(
                f"warning: the image set has only {self.batch_size} usable images, fewer than pretrain.batch_size "
                f"({config.batch_size}): each step takes them all, and the learning rate is scaled to that"
            )
        steps_per_epoch = len(dataset.proposals) // self.batch_size
        self.learning_rate = learning_rates(config, self.batch_size, steps_per_epoch)
        self.ema = ema_coefficients(config, steps_per_epoch)
        self.total_steps = len(self.ema)
        self.checkpointer = Checkpointer(result, recipe.runtime.checkpoints_kept)
        self.step = 0

    def train(self) -> dict[str, Any]:
        """Run all steps that are left; return the summary of the run.

        Raises:
            InterruptedStageError: SIGINT or SIGTERM came; the state is saved.
            SocoError: the loss is not finite.
        """
        self._resume()
        batches = EpochBatches(
            len(self.dataset.proposals),
            self.batch_size,
            self.recipe.pretrain.epochs,
            self.recipe.seed,
            self.step,
        )
        metrics = MetricsWriter(self.result.path / "metrics.jsonl", self.step)
        progress = Progress("pretrain", self.total_steps, self.step, "steps")
        with InterruptGuard() as guard, metrics, progress:
            began = time.perf_counter()
            for batch in view_loader(self.dataset, batches, self.recipe.runtime.workers, self.device):
                values = self._train_step(prepare(batch, self.device))
                metrics.write(self.step, values)
                if self.step % self.recipe.runtime.log_steps == 0 or self.step == self.total_steps - 1:
                    self.tracker.log(self.step, {**values, "seconds_per_step": time.perf_counter() - began})
                began = time.perf_counter()
                self.step += 1
                progress.advance(note=f"loss {values['loss']:.3f}, spread {values['embedding_std']:.2f}")
                due = self.step % self.recipe.runtime.checkpoint_steps == 0 or self.step == self.total_steps
                if due or guard.signal is not None:
                    metrics.keep(self.result)
                    self._save()
                    guard.stop_if_asked(f"the state after step {self.step} of {self.total_steps} is saved")
        losses = [entry["loss"] for entry in read_metrics(self.result.path / "metrics.jsonl")]
        return {
            "images": len(self.dataset.proposals),
            "steps": self.total_steps,
            "batch_size": self.batch_size,
            "first_loss": losses[0],
            "final_loss": losses[-1],
        }

    def _train_step(self, views: list[ViewBatch]) -> dict[str, float]:
        self.networks.train()
        self.networks.update_target(float(self.ema[self.step]))
        online, target = self.networks(views)
        terms = soco_loss(online, target)
        loss = float(terms["loss"].detach())
        if not math.isfinite(loss):
            raise SocoError(
                f"pretraining diverged: the loss is {loss} at step {self.step}; lower "
                "pretrain.base_learning_rate or lengthen pretrain.warmup_epochs"
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.learning_rate[self.step])
        self.optimizer.step()
        return {
            **{f"loss_{name}" if name != "loss" else name: float(term.detach()) for name, term in terms.items()},
            "learning_rate": float(self.learning_rate[self.step]),
            "ema": float(self.ema[self.step]),
            "embedding_std": float(embedding_spread(target)),
        }

    def _save(self) -> None:
        state = {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.checkpointer.save(self.step, state)

    def _resume(self) -> None:
        state = self.checkpointer.load_latest()
        if state is None:
            return
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        say(f"pretrain: going on from step {self.step} of {self.total_steps}")

    def weights(self) -> dict[str, Tensor]:
        """The online network's state dict, batch-norm statistics included."""
        return dict(self.networks.online.state_dict())


def prepare(batch: list[View], device: torch.device) -> list[ViewBatch]:
    """Bring a batch of views to the device and augment it there."""
    ready = []
    for view in batch:
        images = augment(view.image.to(device, non_blocking=True), view.augmentation)
        ready.append(
            ViewBatch(images.contiguous(memory_format=torch.channels_last), view.boxes.to(device, non_blocking=True))
        )
    return ready

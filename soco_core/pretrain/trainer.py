"""The training loop of the pretraining; it reads as the method does (paper 3.3, 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import Finished, TrainingLoop, UnfinishedStepError
from soco_core.engine.precision import Precision, choose_precision, same_precision
from soco_core.engine.records import METRICS
from soco_core.engine.setup import seed_everything
from soco_core.engine.sync_batch_norm import synchronise_batch_norm
from soco_core.errors import InputError, SocoError
from soco_core.models.soco import SoCo
from soco_core.pretrain.data import EpochBatches, ViewDataset, view_loader
from soco_core.pretrain.divergence import dump_views, largest_gradients
from soco_core.pretrain.lars import LARS
from soco_core.pretrain.loss import soco_loss
from soco_core.pretrain.remarks import remarks
from soco_core.pretrain.schedules import ema_coefficients, learning_rates
from soco_core.pretrain.shares import ShareOfBatches, divide, shares
from soco_core.pretrain.watch import Measured, Measurements, Watch, collapse
from soco_core.tracking import Tracker
from soco_core.views.batch import prepare_views
from soco_core.views.construct import View

SHORTEN = (
    "more processes make it shorter, and so does a lower runtime.images_per_process (a signal is answered between its "
    "passes, but batch norm sees one pass at a time, which changes the result)"
)


class Trainer:
    """The task `pretrain`: trains one pair of networks on one image set, from its last checkpoint if there is one.

    Every process has one; they compute each batch together.

    Args:
        recipe: the resolved recipe.
        dataset: views by (epoch, image).
        processes: this one's place among them.
        result: in the first process, the result directory; metrics and checkpoints go there.
        tracker: in the first process, gets the curves.
    """

    name = "pretrain"
    saved_before = 0

    def __init__(
        self,
        recipe: Recipe,
        dataset: ViewDataset,
        processes: Processes,
        result: ResultDirectory | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.recipe, self.dataset, self.processes = recipe, dataset, processes
        self.result, self.tracker = result, tracker
        config, self.device = recipe.pretrain, processes.device
        self.images = len(dataset.proposals)
        if self.images < 2:
            raise InputError(
                f"{dataset.source.root}: only one usable image; batch norm needs at least two, so add more"
            )
        self.batch_size = min(config.batch_size, self.images)
        self.division = divide(self.batch_size, processes.count, recipe.runtime.images_per_process)
        steps_per_epoch = self.images // self.batch_size
        self.learning_rate = learning_rates(config, self.batch_size, steps_per_epoch)
        self.ema = ema_coefficients(config, steps_per_epoch)
        self.total_steps, self.steps_per_epoch, self.images_per_step = len(self.ema), steps_per_epoch, self.batch_size
        self.precision = Precision(choose_precision(recipe.runtime.precision, self.device), self.device)

        seed_everything(recipe.seed)
        self.networks = SoCo(recipe.model).to(self.device)
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if processes.count > 1:
            synchronise_batch_norm(self.networks, self.device, processes.norm)
        self.online: nn.Module = self.networks.online
        self.optimizer = LARS(
            self.networks.online.parameters(),
            lr=0.0,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            trust_coefficient=config.trust_coefficient,
        )
        self.measurements = Measurements(recipe.model, processes)
        self.watch = Watch(config, round(config.warmup_epochs * steps_per_epoch), self.precision.skips)
        self.stopping: Callable[[], bool] = lambda: False
        """Asked between the passes of a step, in all processes."""
        self.attempts: list[dict[str, Any]] = []
        # Waiting for the device costs nothing on a CPU; on a GPU the steps are looked at some at a time.
        self.read_steps = 1 if self.device.type == "cpu" else recipe.runtime.log_steps
        if processes.first:
            self._warn()

    def train(self) -> None:
        """Run all steps that are left.

        Raises:
            InterruptedStageError: SIGINT or SIGTERM came, here or in another process; the state is saved.
            InputError: an image or its proposals cannot be read; the state before that step is saved.
            SocoError: the training diverged.
        """
        same_precision(self.precision.name, self.processes)
        if self.processes.count > 1:  # gradients are averaged over all processes
            network = self.networks.online
            self.online = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
        loop = TrainingLoop(
            self, self.recipe.runtime, self.processes, self.result, self.tracker, self.read_steps, SHORTEN
        )
        self.stopping = loop.stopping
        loop.run()

    def batches(self, first_step: int) -> Generator[list[list[View]], None, None]:
        """Load this process's passes of each step; all before it begins, so that an error leaves the state whole."""
        config, passes = self.recipe.pretrain, self.division.passes
        batches = EpochBatches(self.images, self.batch_size, config.epochs, self.recipe.seed, first_step)
        share = ShareOfBatches(batches, self.division, self.processes.rank)
        loaded = iter(view_loader(self.dataset, share, self.recipe.runtime.workers, self.device, passes))
        for _ in range(len(batches)):
            yield [next(loaded) for _ in range(passes)]

    def step(self, step: int, batch: list[list[View]]) -> None:
        """Move the target, embed and compare the views, and update the online network (3.3)."""
        self.networks.train()
        moved = [*self.networks.target.parameters(), *self.networks.buffers()]
        before = [tensor.detach().clone() for tensor in moved] if len(batch) > 1 else []
        self.networks.update_target(float(self.ema[step]))
        self.optimizer.zero_grad(set_to_none=True)
        for number, views in enumerate(batch):
            if number > 0 and self.stopping():
                with torch.no_grad():
                    torch._foreach_copy_(moved, before)
                raise UnfinishedStepError
            self._accumulate(views, last=number == len(batch) - 1)
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.networks.online.parameters() if p.grad is not None]
        self.measurements.close(step, torch.stack(torch._foreach_norm(gradients)).float())
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.learning_rate[step])
        scaler.step(self.optimizer)
        scaler.update()

    def _accumulate(self, batch: list[View], last: bool) -> None:
        """Add this process's part of a pass to the gradients, which become the mean over the global batch."""
        views = prepare_views(batch, self.device)
        online = self.online
        with online.no_sync() if isinstance(online, DistributedDataParallel) and not last else nullcontext():
            with self.precision.autocast():
                predictions = online(views)
                with torch.no_grad():
                    target = self.networks.target(views)
            terms = soco_loss(predictions, target, [view.ids for view in views])
            # DDP takes the mean over processes, and their parts may differ by an image.
            share = len(views[0].images) * self.processes.count / self.batch_size
            self.precision.scaler.scale(terms["loss"] * share).backward()
        usable = torch.stack([view.usable for view in batch]).any(0)
        self.measurements.add(views, usable, {name: term.detach() for name, term in terms.items()}, target)

    def measured(self) -> Iterator[Finished]:
        """Yield the steps since the last call; stop, in all processes, at the one that diverged."""
        scale = self.precision.scaler.get_scale()
        for step in self.measurements.read():
            values = {
                **step.values,
                "learning_rate": float(self.learning_rate[step.step]),
                "ema": float(self.ema[step.step]),
            }
            reason = self.watch.diverged(step, scale)
            if reason is not None:
                self._stop_diverged(step, values, reason)
            note = f"loss {values['loss']:.3f}, spread {values['embedding_std']:.2f}"
            if self.precision.skips:
                values |= {"loss_scale": scale, "skipped_steps": self.watch.skipped_steps}
                note += f", {self.watch.skipped_steps} steps skipped"
            if self.watch.collapsed(step) and self.processes.first:
                say(f"warning: {collapse(step)}")
            yield Finished(step.step, values, note)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs and that is no function of the step and the recipe."""
        return {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "watch": self.watch.state_dict(),
            "attempts": self.attempts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, or from the beginning if it is empty; what changed in how it is computed is noted."""
        if state:
            self.networks.load_state_dict(state["networks"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision.go_on(state["scaler"])
            self.watch.load_state_dict(state["watch"])
            self.attempts = state["attempts"]
        how = {**self.division.summary(), "precision": self.precision.name}
        if not self.attempts or {**self.attempts[-1], **how} != self.attempts[-1]:
            self.attempts.append({"first_step": state.get("step", 0), **how})

    def _stop_diverged(self, measured: Measured, values: dict[str, float], reason: str) -> None:
        """End in all processes; the first one leaves what is needed to find the cause."""
        where = ""
        if self.result is not None:
            report = {
                "reason": reason,
                **values,
                "largest_gradients": largest_gradients(self.networks.online, measured.gradient_norms),
            }
            config = self.recipe.pretrain
            batches = EpochBatches(self.images, self.batch_size, config.epochs, self.recipe.seed, measured.step)
            images = shares(next(iter(batches)), self.division)
            where = dump_views(self.result, self.dataset, images, report, measured.step)
        self.processes.agree(
            SocoError(
                f"pretraining diverged at step {measured.step}: {reason}. Its images, losses, gradients and views are "
                f"in {where}; lower pretrain.base_learning_rate, or lengthen pretrain.warmup_epochs"
            )
        )

    def _warn(self) -> None:
        config, division = self.recipe.pretrain, self.division
        for remark in remarks(self.recipe):
            say(f"warning: {remark}")
        if self.batch_size < config.batch_size:
            say(
                f"warning: the image set has only {self.batch_size} usable images, fewer than pretrain.batch_size "
                f"({config.batch_size}): each step takes them all, and the learning rate is scaled to that"
            )
        if division.passes > 1:
            say(
                f"warning: runtime.images_per_process ({self.recipe.runtime.images_per_process}) makes "
                f"{division.passes} passes of each step: batch norm sees {division.norm_images} images at once, not "
                f"the {self.batch_size} of the batch, which changes the result; more processes keep it as it is"
            )

    def summary(self, result: ResultDirectory) -> dict[str, Any]:
        """What the first process says of the finished training."""
        losses = [entry["loss"] for entry in read_metrics(result.path / METRICS)]
        how = {key: value for key, value in self.attempts[-1].items() if key != "first_step"}
        return {
            "images": self.images,
            "steps": self.total_steps,
            "batch_size": self.batch_size,
            **how,
            **({"attempts": self.attempts} if len(self.attempts) > 1 else {}),
            **({"skipped_steps": self.watch.skipped_steps} if self.precision.skips else {}),
            "first_loss": losses[0],
            "final_loss": losses[-1],
        }

    def weights(self) -> dict[str, Tensor]:
        """The online network's state dict, batch-norm statistics included."""
        return dict(self.networks.online.state_dict())

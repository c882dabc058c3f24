"""The training loop: SGD with warm-up and drops, resumable at every checkpoint (4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from soco_core.artifacts.result import ResultDirectory
from soco_core.config import FinetuneConfig, Recipe
from soco_core.datasets.split import LabelledDataset, LabelledSplit
from soco_core.detection.data import Batch, training_batches
from soco_core.detection.divergence import dump_batch
from soco_core.detection.evaluate import predict
from soco_core.detection.precise_bn import estimate_batch_norms
from soco_core.detection.schedule import learning_rates
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import Finished, TrainingLoop
from soco_core.engine.precision import Precision, choose_precision, same_precision
from soco_core.errors import SocoError
from soco_core.evaluation.evaluator import evaluate
from soco_core.tracking import Tracker

PRECISE_BN_STREAM = 1 << 20
"""Added to the seed: PreciseBN sees other augmentations than the last training steps."""
PRECISION = "runtime.finetune_precision"
SHORTEN = "a GPU, or a lower finetune.batch_size with a learning rate to match (docs/detection.md), makes it shorter"


def train(task: Finetuning, tracker: Tracker | None) -> None:
    """Train the detector, going on from the latest checkpoint of the task's result.

    Batches and augmentations depend on the seed and the step alone, the sampling of anchors and proposals also on the
    number of the process, so an interrupted training continues exactly.

    Raises:
        SocoError: the loss is not finite, or the last state could not be saved.
        InputError: an image cannot be read; the state before that step is saved.
        InterruptedStageError: asked to stop; the state is saved.
    """
    same_precision(task.precision.name, task.processes, PRECISION)
    loop = TrainingLoop(task, task.recipe.runtime, task.processes, task.result, tracker, shorten=SHORTEN)
    task.stopping = loop.stopping
    loop.run()


class Finetuning:
    """The task `finetune` of the training loop; every process has one, and they compute each batch together.

    Args:
        model: the detector, on its device.
        data: what it is trained on, and evaluated on if `runtime.evaluate_steps` says so.
        recipe: the resolved recipe.
        processes: this one's place among them.
        result: in the first process, the result directory; what a divergence leaves goes there.

    Raises:
        SocoError: the batch cannot be divided evenly among the processes, or the device lacks the precision.
    """

    name = "finetune"
    steps_per_epoch = 0

    def __init__(
        self,
        model: nn.Module,
        data: LabelledDataset,
        recipe: Recipe,
        processes: Processes,
        result: ResultDirectory | None = None,
    ) -> None:
        self.model, self.data, self.recipe, self.processes, self.result = model, data, recipe, processes, result
        self.device = processes.device
        self.total_steps, self.images_per_step = recipe.finetune.iterations, recipe.finetune.batch_size
        if self.images_per_step % processes.count:
            raise SocoError(
                f"finetune.batch_size: {self.images_per_step} images cannot be divided evenly among {processes.count} "
                "processes, and each counts alike in the gradient; start another number of them, or change it"
            )
        wanted = choose_precision(recipe.runtime.finetune_precision, self.device, PRECISION)
        self.precision = Precision(wanted, self.device)
        self.optimizer = build_optimizer(model, recipe.finetune)
        self.rates = learning_rates(recipe.finetune)
        model.train()
        self.network: nn.Module = model
        if processes.count > 1:
            # An image without an object leaves a mask head, for one, without a gradient.
            self.network = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
        self.saved_before = recipe.runtime.evaluate_steps
        self.stopping: Callable[[Exception | None], bool] | None = None
        """Asked between the images of an evaluation, in all processes."""
        self._finished: list[Finished] = []

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Load this process's part of the batches of the steps from `first_step` on."""
        yield from training_batches(self.data.train, self.recipe, first_step, self.total_steps, self.processes)

    def step(self, step: int, batch: Batch) -> None:
        """Compute a step.

        Raises:
            SocoError: the loss is not finite; in all processes.
            UnfinishedStepError: asked to stop during the evaluation that comes before it.
        """
        evaluated = self._evaluate() if self._evaluates(step) else {}
        images, targets = to_device(batch, self.device)
        _seed_step(self.recipe.seed, step, self.processes.rank)
        with self.precision.autocast():
            losses: dict[str, Tensor] = self.network(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        rate = float(self.rates[step])
        values = self._mean({"loss": total, **losses}) | {"learning_rate": rate}
        if not math.isfinite(values["loss"]):
            self._stop_diverged(step, batch, values)
        self._update(total, rate)
        self._finished.append(Finished(step, values | evaluated, f"loss {values['loss']:.3f}"))

    def measured(self) -> Iterator[Finished]:
        """Yield the steps computed since the last call."""
        finished, self._finished = self._finished, []
        yield from finished

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs and that is no function of the step and the recipe."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "precisions": self.precision.used,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, or from the beginning if it is empty."""
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision.go_on(state["scaler"], state.get("precisions", ()))

    def _update(self, total: Tensor, rate: float) -> None:
        scaler, clip = self.precision.scaler, self.recipe.finetune.gradient_clip
        self.optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        if clip:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        scaler.step(self.optimizer)
        scaler.update()

    def _mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Average over the processes, whose parts of the batch are equally large."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.processes.count > 1:
            dist.all_reduce(stacked)
            stacked /= self.processes.count
        return dict(zip(values, stacked.tolist(), strict=True))

    def _evaluates(self, step: int) -> bool:
        every = self.recipe.runtime.evaluate_steps
        return bool(every) and step > 0 and step % every == 0

    def _evaluate(self) -> dict[str, float]:
        """Return the paper's columns of the detector as it is, with the running statistics of its batch norms."""
        val = self.data.val
        try:
            found = predict(self.model, val, self.recipe, self.processes, self.stopping)
        finally:
            self.model.train()
        if not self.processes.first:
            return {}
        columns = evaluate(val, found, self.recipe.finetune.has_masks).columns
        return {name: value for name, value in columns.items() if value is not None}

    def _stop_diverged(self, step: int, batch: Batch, values: dict[str, float]) -> NoReturn:
        """End in all processes; the first one leaves its part of the batch."""
        every = self.processes.gather([target["image_id"] for target in batch[1]])
        where = ""
        if self.result is not None:
            where = dump_batch(self.result, self.data.train, self.model, batch, values, step)
        ids = ", ".join(str(number) for part in every for number in part)
        error = SocoError(
            f"finetune: the loss is not finite at step {step} (images {ids}); lower finetune.learning_rate, raise "
            "finetune.warmup_iterations or set finetune.gradient_clip. Its images, losses and weights are in "
            f"{where}"
        )
        self.processes.agree(error)
        raise error


def build_optimizer(model: nn.Module, settings: FinetuneConfig) -> torch.optim.SGD:
    """Return SGD with momentum, and what norms and biases have of their own.

    By default the norms' parameters get no weight decay, and biases are as weights (detectron2). A group's
    ``rate_factor`` is its learning rate by the schedule's.
    """
    norms = [
        parameter
        for module in model.modules()
        if isinstance(module, (_BatchNorm, nn.GroupNorm))
        for parameter in module.parameters(recurse=False)
    ]
    known = {id(parameter) for parameter in norms}
    biases = [
        parameter
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and id(parameter) not in known
    ]
    known |= {id(parameter) for parameter in biases}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in known]
    decay = settings.weight_decay
    groups = [
        {"params": weights, "weight_decay": decay, "rate_factor": 1.0},
        {"params": biases, "weight_decay": decay * settings.decay_biases, "rate_factor": settings.bias_rate_factor},
        {"params": norms, "weight_decay": decay * settings.decay_norms, "rate_factor": 1.0},
    ]
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)


def refresh_batch_norms(model: nn.Module, split: LabelledSplit, recipe: Recipe, processes: Processes) -> None:
    """Re-estimate the batch-norm statistics over `precise_bn_images` training images, in all processes."""
    steps = math.ceil(recipe.finetune.precise_bn_images / recipe.finetune.batch_size)
    if steps == 0:
        return
    apart = recipe.model_copy(update={"seed": recipe.seed + PRECISE_BN_STREAM})

    def inputs() -> Iterator[Batch]:
        with closing(training_batches(split, apart, 0, steps, processes)) as batches:
            for step in range(steps):
                # What one process cannot read ends all here: in the forward pass they would wait for it.
                batch = processes.together(lambda: next(batches))
                _seed_step(apart.seed, step, processes.rank)
                yield to_device(batch, processes.device)

    estimate_batch_norms(model, inputs(), processes)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch; pixels become float, still in 0..255."""
    images, targets = batch
    moved = [
        {key: value.to(device) if isinstance(value, Tensor) else value for key, value in target.items()}
        for target in targets
    ]
    return [image.to(device).float() for image in images], moved


def _seed_step(seed: int, step: int, rank: int) -> None:
    """The detector samples anchors and proposals from torch's global generator: seeded anew for each step."""
    torch.manual_seed((seed << 32) + (rank << 24) + step)

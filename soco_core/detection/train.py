"""The training loop: SGD with warm-up and drops, resumable at every checkpoint (4.2)."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from soco_core.artifacts.result import ResultDirectory
from soco_core.config import FinetuneConfig, Recipe
from soco_core.datasets.split import LabelledSplit
from soco_core.detection.data import Batch, training_batches
from soco_core.detection.divergence import dump_batch
from soco_core.detection.precise_bn import estimate_batch_norms
from soco_core.detection.schedule import learning_rates
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import Finished, TrainingLoop
from soco_core.errors import SocoError
from soco_core.tracking import Tracker

PRECISE_BN_STREAM = 1 << 20
"""Added to the seed: PreciseBN sees other augmentations than the last training steps."""
SHORTEN = "a GPU, or a lower finetune.batch_size with a learning rate to match (docs/detection.md), makes it shorter"


class _NotFiniteError(Exception):
    """The loss of a step is not finite; nothing was updated with it."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values


def train(
    model: nn.Module,
    split: LabelledSplit,
    recipe: Recipe,
    device: torch.device,
    result: ResultDirectory,
    tracker: Tracker,
) -> None:
    """Train the detector, going on from the latest checkpoint of `result`.

    Batches, augmentations and the sampling of anchors and proposals depend on the seed and the step alone,
    so an interrupted training continues exactly.

    Raises:
        SocoError: the loss is not finite, or the last state could not be saved.
        InputError: an image cannot be read; the state before that step is saved.
        InterruptedStageError: asked to stop; the state is saved.
    """
    model.train()
    alone = Processes(recipe.runtime.device)
    task = Finetuning(model, split, recipe, device, result)
    TrainingLoop(task, recipe.runtime, alone, result, tracker, shorten=SHORTEN).run()


class Finetuning:
    """The task `finetune` of the training loop.

    Args:
        model: the detector, on its device.
        split: what it is trained on.
        recipe: the resolved recipe.
        device: where it computes.
        result: the result directory; what a divergence leaves goes there.
    """

    name = "finetune"
    steps_per_epoch = 0

    def __init__(
        self, model: nn.Module, split: LabelledSplit, recipe: Recipe, device: torch.device, result: ResultDirectory
    ) -> None:
        self.model, self.split, self.recipe, self.device, self.result = model, split, recipe, device, result
        self.total_steps, self.images_per_step = recipe.finetune.iterations, recipe.finetune.batch_size
        self.optimizer = build_optimizer(model, recipe.finetune)
        self.rates = learning_rates(recipe.finetune)
        self._finished: list[Finished] = []

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Load the batches of the steps from `first_step` on."""
        yield from training_batches(self.split, self.recipe, first_step, self.total_steps)

    def step(self, step: int, batch: Batch) -> None:
        """Compute a step.

        Raises:
            SocoError: the loss is not finite.
        """
        try:
            values = _step(self.model, self.optimizer, batch, float(self.rates[step]), step, self.recipe, self.device)
        except _NotFiniteError as error:
            where = dump_batch(self.result, self.split, self.model, batch, error.values, step)
            ids = ", ".join(str(target["image_id"]) for target in batch[1])
            raise SocoError(
                f"finetune: the loss is not finite at step {step} (images {ids}); lower finetune.learning_rate, raise "
                "finetune.warmup_iterations or set finetune.gradient_clip. Its images, losses and weights are in "
                f"{where}"
            ) from None
        self._finished.append(Finished(step, values, f"loss {values['loss']:.3f}"))

    def measured(self) -> Iterator[Finished]:
        """Yield the steps computed since the last call."""
        finished, self._finished = self._finished, []
        yield from finished

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs and that is no function of the step and the recipe."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, or from the beginning if it is empty."""
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])


def build_optimizer(model: nn.Module, settings: FinetuneConfig) -> torch.optim.SGD:
    """Return SGD with momentum; the norms' parameters get no weight decay, biases do (detectron2's defaults)."""
    norms = [
        parameter
        for module in model.modules()
        if isinstance(module, (_BatchNorm, nn.GroupNorm))
        for parameter in module.parameters(recurse=False)
    ]
    without = {id(parameter) for parameter in norms}
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in without]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)


def refresh_batch_norms(model: nn.Module, split: LabelledSplit, recipe: Recipe, device: torch.device) -> None:
    """Re-estimate the batch-norm statistics over `precise_bn_images` training images."""
    steps = math.ceil(recipe.finetune.precise_bn_images / recipe.finetune.batch_size)
    if steps == 0:
        return
    apart = recipe.model_copy(update={"seed": recipe.seed + PRECISE_BN_STREAM})

    def inputs() -> Iterator[Batch]:
        for step, batch in enumerate(training_batches(split, apart, 0, steps)):
            _seed_step(apart.seed, step)
            yield to_device(batch, device)

    estimate_batch_norms(model, inputs())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch; pixels become float, still in 0..255."""
    images, targets = batch
    moved = [
        {key: value.to(device) if isinstance(value, Tensor) else value for key, value in target.items()}
        for target in targets
    ]
    return [image.to(device).float() for image in images], moved


def _step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    batch: Batch,
    rate: float,
    step: int,
    recipe: Recipe,
    device: torch.device,
) -> dict[str, Any]:
    images, targets = to_device(batch, device)
    _seed_step(recipe.seed, step)
    losses: dict[str, Tensor] = model(images, targets)
    total = torch.stack(list(losses.values())).sum()
    values = {"loss": total.item(), **{name: loss.item() for name, loss in losses.items()}, "learning_rate": rate}
    if not math.isfinite(values["loss"]):
        raise _NotFiniteError(values)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    if recipe.finetune.gradient_clip:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.finetune.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return values


def _seed_step(seed: int, step: int) -> None:
    """The detector samples anchors and proposals from torch's global generator: seeded anew for each step."""
    torch.manual_seed((seed << 32) + step)

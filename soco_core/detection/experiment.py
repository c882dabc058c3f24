"""What all processes of a finetuning compute together, from the weights to the predictions (4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from soco_core.artifacts.initialisation import Initialisation
from soco_core.artifacts.result import ResultDirectory
from soco_core.artifacts.weights import Coverage
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.datasets.split import LabelledDataset
from soco_core.datasets.subsets import write_ids
from soco_core.detection.engines import build_engine_detector, load_engine_initialisation
from soco_core.detection.evaluate import predict
from soco_core.detection.train import Finetuning, refresh_batch_norms, train
from soco_core.engine.distributed import Processes
from soco_core.engine.setup import seed_everything
from soco_core.engine.sync_batch_norm import synchronise_batch_norm
from soco_core.tracking import Tracker

COVERAGE = "coverage.json"
TRAIN_IDS = "train_ids.txt"


@dataclass(frozen=True)
class Experiment:
    """What an experiment left."""

    model: nn.Module
    predictions: list[dict[str, Any]]
    """COCO results of the whole validation split."""
    coverage: Coverage
    precision: str
    """Of the training; several where it went on in another one."""


def experiment(
    recipe: Recipe,
    data: LabelledDataset,
    start: Initialisation,
    row: str,
    processes: Processes,
    result: ResultDirectory | None = None,
    tracker: Tracker | None = None,
) -> Experiment:
    """Train a detector from its last checkpoint on, re-estimate its batch norms, and predict.

    Args:
        recipe: the resolved recipe.
        data: what is trained and evaluated on.
        start: the initial weights.
        row: of the table, for what is said.
        processes: this one's place among them.
        result: in the first process, where the result goes.
        tracker: in the first process, gets the curves.

    Raises:
        InputError: the weights do not fit, or an image cannot be read.
        InterruptedStageError: asked to stop; what was finished is kept.
        SocoError: the loss is not finite, or the batch cannot be divided among the processes.
    """
    device = processes.device
    seed_everything(recipe.seed)
    model = processes.together(lambda: build_engine_detector(recipe, len(data.train.categories)))
    coverage = processes.together(lambda: load_engine_initialisation(model, start, recipe))
    if result is not None:
        coverage.write(result.path / COVERAGE)
        say(_summary(row, start, coverage))
        if data.train.subset:
            write_ids(data.train, result.path / TRAIN_IDS)
    model.to(device)
    if processes.count > 1:
        synchronise_batch_norm(model, device, processes.norm)
    task = processes.together(lambda: Finetuning(model, data, recipe, processes, result))
    train(task, tracker)
    refresh_batch_norms(model, data.train, recipe, processes)
    predictions = sorted(predict(model, data.val, recipe, processes), key=lambda found: found["image_id"])
    return Experiment(model, predictions, coverage, ", then ".join(task.precision.used))


def _summary(row: str, start: Initialisation, coverage: Coverage) -> str:
    return (
        f"finetune {row}: from {start.description}; {len(coverage.loaded)} keys loaded, "
        f"{len(coverage.left_out)} left out, {len(coverage.newly_initialised)} newly initialised"
    )

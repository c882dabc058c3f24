"""What all processes of a linear evaluation compute together, from the weights to the predictions (paper B)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soco_core.artifacts.initialisation import Initialisation
from soco_core.artifacts.result import ResultDirectory
from soco_core.artifacts.weights import Coverage
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import TrainingLoop
from soco_core.engine.precision import Precision, choose_precision, same_precision
from soco_core.engine.setup import seed_everything
from soco_core.linear.crops import Files
from soco_core.linear.data import LabelledImages
from soco_core.linear.evaluate import best_classes
from soco_core.linear.neighbours import nearest_neighbours
from soco_core.linear.networks import Backbone, Heads
from soco_core.linear.train import LinearTraining
from soco_core.linear.weights import load_backbone
from soco_core.models.backbone import Encoder
from soco_core.storage import join, write_text
from soco_core.tracking import Tracker

COVERAGE = "coverage.json"
NEIGHBOURS = "neighbours.json"


@dataclass(frozen=True)
class Probe:
    """What an evaluation found."""

    heads: Heads
    """Trained, one for each learning rate."""
    best: NDArray[np.int64]
    """The best classes of each validation image for each head, best first, [heads, images, up to 5]."""
    neighbours: dict[str, Any]
    """See :func:`soco_core.linear.neighbours.nearest_neighbours`."""
    training: LinearTraining
    coverage: Coverage
    precision: str
    """Of the features; several where an evaluation went on in another one."""


def probe(
    recipe: Recipe,
    data: LabelledImages,
    origin: Initialisation,
    processes: Processes,
    result: ResultDirectory | None = None,
    tracker: Tracker | None = None,
) -> Probe:
    """Find nearest neighbours, train the classifiers from their last checkpoint on, and classify.

    Args:
        recipe: the resolved recipe.
        data: the images.
        origin: of the backbone.
        processes: this one's place among them.
        result: in the first process, where the result goes.
        tracker: in the first process, gets the curves.

    Raises:
        InputError: the weights do not fit, or images cannot be read.
        InterruptedStageError: asked to stop; what was finished is kept.
        SocoError: the loss is not finite.
    """
    device = processes.device
    seed_everything(recipe.seed)
    encoder = Encoder(recipe.model.backbone)
    coverage = processes.together(lambda: load_backbone(encoder, origin))
    precision = processes.together(lambda: Precision(choose_precision(recipe.runtime.precision, device), device))
    same_precision(precision.name, processes)
    backbone = Backbone(encoder, precision)
    train, val = (Files(split, recipe.images.max_pixels) for split in (data.train, data.val))
    classes = len(data.train.classes)
    heads = Heads(len(recipe.linear.learning_rates), backbone.width, classes, recipe.seed).to(device)
    coverage.newly_initialised |= dict.fromkeys(heads.state_dict(), "trained here (B)")
    if result is not None:
        coverage.write(result.path / COVERAGE)
        loaded, left_out = len(coverage.loaded), len(coverage.left_out)
        say(f"linear: from {origin.description}; {loaded} keys of the backbone loaded, {left_out} keys left out")

    neighbours = processes.share(_known(result))
    if neighbours is None:
        neighbours = nearest_neighbours(backbone, train, val, classes, recipe, processes)
        neighbours["precision"] = precision.name
        if result is not None:
            write_text(result.path / NEIGHBOURS, json.dumps(neighbours, indent=2) + "\n")
            result.publish(result.path / NEIGHBOURS)
    precision.go_on({}, [neighbours.get("precision", precision.name)])
    bad = {entry["id"]: entry["reason"] for entry in neighbours["bad_images"]}
    if result is not None:
        say(f"linear: k-NN {neighbours['top1']:.1f}")
        if bad:
            first = next(iter(bad))
            say(
                f"warning: {len(bad)} of {len(train)} training images cannot be read and are left out, "
                f"{NEIGHBOURS} lists them; the first: {join(data.root, first)}: {bad[first]}"
            )

    usable = np.array([number for number, name in enumerate(data.train.ids) if name not in bad], np.int64)
    training = processes.together(lambda: LinearTraining(backbone, heads, train, usable, recipe, processes))
    # Waiting for the device costs nothing on a CPU; on a GPU the steps are looked at some at a time.
    read_steps = 1 if device.type == "cpu" else recipe.runtime.log_steps
    TrainingLoop(training, recipe.runtime, processes, result, tracker, read_steps).run()
    best = best_classes(backbone, heads, val, recipe, processes)
    return Probe(heads, best, neighbours, training, coverage, ", then ".join(precision.used))


def _known(result: ResultDirectory | None) -> dict[str, Any] | None:
    """Return what an earlier attempt found of the neighbours."""
    if result is None or not (result.path / NEIGHBOURS).exists():
        return None
    known: dict[str, Any] = json.loads((result.path / NEIGHBOURS).read_text())
    return known

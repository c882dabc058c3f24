"""The k-NN accuracy of a backbone; on the way every image is read once, and the bad ones become known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from soco_core.config import Recipe
from soco_core.engine.distributed import Processes
from soco_core.errors import InputError
from soco_core.linear.crops import Evaluated, Files
from soco_core.linear.knn import Neighbours
from soco_core.linear.networks import Backbone
from soco_core.linear.passes import centre_batches

KEPT = "the pass over all images before the training begins anew"


def nearest_neighbours(
    backbone: Backbone, train: Files, val: Files, classes: int, recipe: Recipe, processes: Processes
) -> dict[str, Any]:
    """Classify the validation images by their nearest training images (Wu et al. 2018; not in the paper).

    Returns:
        Plain JSON, the same in all processes: ``top1`` in percent, ``neighbours``, ``temperature``, and
        ``bad_images``, ``id`` and ``reason`` of each training image that cannot be read.

    Raises:
        InputError: a validation image cannot be read, or no training image can.
        InterruptedStageError: asked to stop.
    """
    device, config = processes.device, recipe.linear
    queries = _validation_features(backbone, val, recipe, processes).to(device)
    nearest = Neighbours(queries, min(config.knn_neighbours, len(train)))
    del queries  # they are compared normalised, and are large
    labels = torch.from_numpy(train.labels)
    bad: list[tuple[int, str]] = []
    for batch in centre_batches(train, recipe, processes, "training images", KEPT):
        good, reasons = _good(batch)
        bad += reasons
        if len(good):
            nearest.see(backbone(batch[0][good]), labels[batch[1][good]].to(device))
    found = sorted(entry for part in processes.gather(bad) for entry in part)
    if len(found) == len(train):
        processes.agree(InputError(f"{train.name(0)}: {found[0][1]}; no training image can be read (of {len(found)})"))
    others = processes.gather((nearest.similarities.cpu(), nearest.labels.cpu()))
    nearest.merge(other for rank, other in enumerate(others) if rank != processes.rank)
    voted = nearest.vote(classes, config.knn_temperature).cpu()
    hits = (voted == torch.from_numpy(val.labels)).double().mean()
    return {
        "top1": 100 * hits.item(),
        "neighbours": config.knn_neighbours,
        "temperature": config.knn_temperature,
        "bad_images": [{"id": train.id(number), "reason": reason} for number, reason in found],
    }


def _validation_features(backbone: Backbone, val: Files, recipe: Recipe, processes: Processes) -> Tensor:
    """Return the features of all validation images in all processes, float32 [N, D], on the CPU."""
    own: list[tuple[Tensor, Tensor]] = []
    bad: list[tuple[int, str]] = []
    for batch in centre_batches(val, recipe, processes, "validation images", KEPT):
        good, reasons = _good(batch)
        own.append((batch[1][good], backbone(batch[0][good]).cpu() if len(good) else torch.empty(0, backbone.width)))
        bad += reasons
    found = sorted(entry for part in processes.gather(bad) for entry in part)
    if found:
        more = f" ({len(found)} such images)" if len(found) > 1 else ""
        processes.agree(
            InputError(
                f"{val.name(found[0][0])}: {found[0][1]}{more}; an accuracy is of all validation images: restore the "
                "file, or take it out of the data set"
            )
        )
    features = torch.empty(len(val), backbone.width)
    for part in processes.gather(own):
        for numbers, values in part:
            features[numbers] = values
    return features


def _good(batch: Evaluated) -> tuple[Tensor, list[tuple[int, str]]]:
    """Return the places of a batch's good images, int64 [N], and (number, reason) of the others."""
    _, numbers, reasons = batch
    good = [place for place, reason in enumerate(reasons) if not reason]
    bad = [(int(number), reason) for number, reason in zip(numbers, reasons, strict=True) if reason]
    return torch.tensor(good, dtype=torch.int64), bad

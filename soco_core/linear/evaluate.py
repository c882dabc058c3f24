"""Top-1 and top-5 of the classifiers on the validation images (paper B, Table 11)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from soco_core.config import Recipe
from soco_core.engine.distributed import Processes
from soco_core.errors import InputError
from soco_core.linear.crops import Files
from soco_core.linear.networks import Backbone, Heads
from soco_core.linear.passes import centre_batches

BEST = 5
KEPT = "the training is done and kept"


def best_classes(
    backbone: Backbone, heads: Heads, val: Files, recipe: Recipe, processes: Processes
) -> NDArray[np.int64]:
    """Return the five best classes (or all, if there are fewer) of each image for each head, best first.

    Returns:
        int64 [heads, images, 5], the same in all processes.

    Raises:
        InputError: an image cannot be read any more.
        InterruptedStageError: asked to stop.
    """
    own, bad = [], []
    for crops, numbers, reasons in centre_batches(val, recipe, processes, "evaluation", KEPT):
        bad += [(int(number), reason) for number, reason in zip(numbers, reasons, strict=True) if reason]
        with torch.no_grad():
            logits = torch.stack(heads(backbone(crops)))
        own.append((numbers.numpy(), logits.topk(min(BEST, logits.shape[-1])).indices.cpu().numpy()))
    found = sorted(entry for part in processes.gather(bad) for entry in part)
    if found:
        number, reason = found[0]
        processes.agree(
            InputError(
                f"{val.name(number)}: {reason}, but it could be read when the evaluation began; restore the file"
            )
        )
    parts = [batch for part in processes.gather(own) for batch in part]
    best = np.zeros((parts[0][1].shape[0], len(val), parts[0][1].shape[2]), np.int64)
    for places, classes in parts:
        best[:, places] = classes
    return best


def accuracies(best: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return top-1 and top-5 in percent.

    Args:
        best: classes of each image, best first, int64 [N, up to 5].
        labels: of each image, int64 [N].
    """
    hits = best == labels[:, None]
    return 100 * float(hits[:, 0].mean()), 100 * float(hits.any(axis=1).mean())

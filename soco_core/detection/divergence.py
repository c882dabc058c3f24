"""What is known of the step at which a finetuning diverged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soco_core.artifacts.result import ResultDirectory
from soco_core.datasets.split import LabelledSplit
from soco_core.detection.data import Batch
from soco_core.engine.divergence import dump_divergence
from soco_core.plotting import png
from soco_core.storage import write_bytes

COLUMNS = 4
LISTED_TENSORS = 20


def dump_batch(
    result: ResultDirectory,
    split: LabelledSplit,
    model: nn.Module,
    batch: Batch,
    values: dict[str, float],
    step: int,
) -> str:
    """Write ``diverged/step-N/`` (:func:`soco_core.engine.divergence.dump_divergence`) with the batch as it was seen.

    Args:
        result: the result directory.
        split: what is trained on.
        model: the detector after the step before.
        batch: of the step.
        values: its losses and learning rate.
        step: the step, from 0.

    Returns:
        Where it lies, for a message.
    """
    images, targets = batch
    names = {record["id"]: record["file_name"] for record in split.images}

    def report() -> dict[str, Any]:
        seen = [{"id": target["image_id"], "file": names[target["image_id"]]} for target in targets]
        return {**values, "images": seen, "largest_weights": largest_weights(model)}

    def draw(path: Path) -> None:
        classes = [category["name"] for category in split.categories]
        draw_batch(path, images, targets, [names[target["image_id"]] for target in targets], classes)

    return dump_divergence(result, step, report, draw)


@torch.no_grad()
def largest_weights(model: nn.Module) -> list[dict[str, Any]]:
    """List the tensors with the largest norms, those that are not finite first."""
    norms = {name: float(tensor.float().norm()) for name, tensor in model.named_parameters()}
    shapes = {name: " x ".join(map(str, tensor.shape)) for name, tensor in model.named_parameters()}
    largest = sorted(norms, key=lambda name: (math.isfinite(norms[name]), -norms[name]))[:LISTED_TENSORS]
    return [{"tensor": name, "shape": shapes[name], "weight_norm": norms[name]} for name in largest]


def draw_batch(
    path: Path, images: list[Tensor], targets: list[dict[str, Any]], titles: list[str], classes: list[str]
) -> None:
    """Write a PNG of augmented images with their boxes.

    Args:
        path: the file.
        images: uint8 [3, H, W].
        targets: ``boxes`` XYXY pixels, float32 [N, 4], and ``labels``, int64 [N] from 1.
        titles: one for each image.
        classes: names of the labels, from 1.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = min(len(images), COLUMNS)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, image, target, title in zip(axes, images, targets, titles, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(title, fontsize=7, parse_math=False)
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            colour = colormaps["tab10"]((label - 1) % 10)
            corner, size = (box[0] - 0.5, box[1] - 0.5), (box[2] - box[0], box[3] - box[1])
            axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour))
            axis.text(
                *corner, classes[label - 1], fontsize=7, color=colour, va="bottom", clip_on=True, parse_math=False
            )
    for axis in axes:
        axis.set_axis_off()
    write_bytes(path, png(figure, 90))

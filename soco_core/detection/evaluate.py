"""A detector's detections in COCO's result format."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from soco_core.config import Recipe
from soco_core.datasets.split import LabelledSplit
from soco_core.detection.data import evaluation_batches
from soco_core.detection.masks import encode_rle, paste_mask
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import UnfinishedStepError
from soco_core.engine.progress import Progress

IMAGES_BETWEEN_QUESTIONS = 16
"""A GPU sees so many in a second or two; on a CPU one alone may take as long."""


@torch.no_grad()
def predict(
    model: nn.Module,
    split: LabelledSplit,
    recipe: Recipe,
    processes: Processes,
    stopping: Callable[[Exception | None], bool] | None = None,
) -> list[dict[str, Any]]:
    """Return the detections on a split in COCO's result format, in all processes; each looks at every n-th image.

    Boxes are [x, y, width, height] in pixels of the original image, masks compressed RLE; detectors without masks give
    boxes alone.

    Args:
        model: the detector, on its device; it is left in evaluation mode.
        split: the images.
        recipe: the resolved recipe.
        processes: this one's place; all of them call this.
        stopping: asked every few images, in all processes, with what went wrong in this one.

    Raises:
        InputError: an image cannot be read, in any process.
        UnfinishedStepError: `stopping` said so.
    """
    model.eval()
    device, count, total = processes.device, processes.count, len(split.images)
    at_once = IMAGES_BETWEEN_QUESTIONS if device.type == "cuda" else 1
    found: list[dict[str, Any]] = []
    with (
        closing(_detections(model, split, recipe, device, range(processes.rank, total, count))) as images,
        Progress("evaluate", total, unit="images") if processes.first else nullcontext() as progress,
    ):
        for done in range(0, total, at_once * count):
            error = None
            try:
                found += chain.from_iterable(islice(images, at_once))
            except Exception as caught:
                error = caught
            if stopping is None:
                processes.agree(error)
            elif stopping(error):
                raise UnfinishedStepError
            if progress is not None:
                progress.advance(min(at_once * count, total - done))
    return [detection for part in processes.gather(found) for detection in part]


def _detections(
    model: nn.Module, split: LabelledSplit, recipe: Recipe, device: torch.device, positions: range
) -> Generator[list[dict[str, Any]], None, None]:
    with closing(evaluation_batches(split, recipe, positions)) as images:
        for image, position in images:
            detections = model([image.to(device).float()])[0]
            yield _results(detections, split, position, image.shape[-2:])


def _results(
    detections: dict[str, Tensor], split: LabelledSplit, position: int, shape: tuple[int, ...]
) -> list[dict[str, Any]]:
    record = split.images[position]
    height, width = record["height"], record["width"]
    scale = torch.tensor([width / shape[1], height / shape[0]] * 2)
    boxes = detections["boxes"].cpu().float() * scale
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    scores, labels = detections["scores"].cpu(), detections["labels"].cpu()
    masks = detections["masks"].cpu() if "masks" in detections else None
    results = []
    for index, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
        if bool((box[2:] <= box[:2]).any()):
            continue
        x0, y0, x1, y1 = box.tolist()
        result = {
            "image_id": record["id"],
            "category_id": split.categories[int(label) - 1]["id"],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(score),
        }
        if masks is not None:
            result["segmentation"] = encode_rle(paste_mask(masks[index][0], box, height, width))
        results.append(result)
    return results

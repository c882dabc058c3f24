"""A detector's detections in COCO's result format."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from soco_core.config import Recipe
from soco_core.datasets.split import LabelledSplit
from soco_core.detection.data import evaluation_batches
from soco_core.detection.masks import encode_rle, paste_mask
from soco_core.engine.distributed import Processes
from soco_core.engine.progress import Progress


def predict_together(
    model: nn.Module, split: LabelledSplit, recipe: Recipe, processes: Processes
) -> list[dict[str, Any]]:
    """Return, in the first process, the detections on a split; each process looks at every n-th image.

    Args:
        model, split, recipe: as for :func:`predict`.
        processes: this one's place; all of them call this.
    """
    share = (processes.rank, processes.count)
    found = processes.gather(processes.together(lambda: predict(model, split, recipe, processes.device, share)))
    return [detection for part in found for detection in part]


@torch.no_grad()
def predict(
    model: nn.Module, split: LabelledSplit, recipe: Recipe, device: torch.device, share: tuple[int, int] = (0, 1)
) -> list[dict[str, Any]]:
    """Return the detections on a split in COCO's result format.

    Boxes are [x, y, width, height] in pixels of the original image, masks compressed RLE; detectors without masks give
    boxes alone.

    Args:
        model: the detector, on its device; it is left in evaluation mode.
        split: the images.
        recipe: the resolved recipe.
        device: where the model is.
        share: (r, n) looks at the images r, r + n, r + 2 n ...; with r = 0 the progress of all n is shown.
    """
    model.eval()
    found: list[dict[str, Any]] = []
    (first, count), total = share, len(split.images)
    with nullcontext() if first else Progress("evaluate", total, unit="images") as progress:
        for image, position in evaluation_batches(split, recipe, range(first, total, count)):
            detections = model([image.to(device).float()])[0]
            found += _results(detections, split, position, image.shape[-2:])
            if progress is not None:
                progress.advance(min(count, total - position))
    return found


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

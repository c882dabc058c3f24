"""Masks in three places: as training targets, pasted into the image, and run-length encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as rle
from torch import Tensor
from torchvision.ops import roi_align

Mask = list[NDArray[np.float64]] | NDArray[np.uint8]
"""Polygons (each [2 x corners], x and y alternating), or a bitmap [H, W] where COCO has RLE."""
THRESHOLD = 0.5


def mask_target(mask: Mask, box: NDArray[np.float64], side: int) -> Tensor:
    """Return what the mask head shall say of an object inside a box: float [side, side], 0 or 1.

    As detectron2 does: polygons are rasterised in the box's own grid, bitmaps are pooled by RoIAlign.

    Args:
        mask: the object's mask.
        box: XYXY in the same pixels as the mask.
        side: side of the grid.
    """
    if not isinstance(mask, list):
        region = torch.tensor([[0.0, *box]], dtype=torch.float32)
        bitmap = torch.from_numpy(mask)[None, None].float()
        return (roi_align(bitmap, region, side, 1.0, sampling_ratio=0, aligned=True)[0, 0] >= THRESHOLD).float()
    scale = side / np.maximum(box[2:] - box[:2], 0.1)
    moved = [((polygon.reshape(-1, 2) - box[:2]) * scale).ravel() for polygon in mask]
    return torch.from_numpy(_rasterise(moved, side, side)).float()


def decode_rle(segmentation: dict[str, Any], height: int, width: int) -> NDArray[np.uint8]:
    """Return the bitmap [H, W] of a COCO RLE, compressed or not."""
    if isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, height, width)
    return rle.decode(segmentation)


def encode_rle(bitmap: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a bitmap [H, W] as COCO's compressed RLE, ready for JSON."""
    encoded = rle.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": [int(side) for side in bitmap.shape], "counts": encoded["counts"].decode()}


def paste_mask(mask: Tensor, box: Tensor, height: int, width: int) -> NDArray[np.bool_]:
    """Return a predicted mask in its image, [H, W].

    Bilinear sampling at pixel centres, then a threshold of 0.5, as detectron2 pastes masks.

    Args:
        mask: probabilities within the box, [M, M].
        box: XYXY in pixels of the image, [4].
        height: of the image.
        width: of the image.
    """
    x0, y0, x1, y1 = box.tolist()
    left, top = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
    right, bottom = min(int(np.ceil(x1)) + 1, width), min(int(np.ceil(y1)) + 1, height)
    columns = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x0) / (x1 - x0) * 2 - 1
    rows = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), dim=-1)[None]
    window = F.grid_sample(mask[None, None].float(), grid, align_corners=False)[0, 0]
    pasted = np.zeros((height, width), dtype=bool)
    pasted[top:bottom, left:right] = (window >= THRESHOLD).numpy()
    return pasted


def _rasterise(polygons: list[NDArray[np.float64]], height: int, width: int) -> NDArray[np.uint8]:
    encoded = rle.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
    return rle.decode(rle.merge(encoded))

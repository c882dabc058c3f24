"""Scale-aware assignment of boxes to pyramid levels, and RoIAlign at a box's own level (paper 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from soco_core.models.backbone import STRIDES


def assign_levels(boxes: Tensor, limits: Sequence[int]) -> Tensor:
    """Assign boxes to levels by sqrt(area) in view pixels (3.3, "Scale-Aware Assignment").

    Args:
        boxes: XYXY pixels of the view, float [..., 4].
        limits: largest sqrt(area) on P2, P3 and P4; a larger box belongs to P5.

    Returns:
        int64 [...], 0 for P2 to 3 for P5.
    """
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    # Compared as areas: a square root would move boxes that lie on a limit.
    squares = torch.tensor([float(limit) ** 2 for limit in limits], device=boxes.device, dtype=boxes.dtype)
    return torch.bucketize(area, squares)


def pool_regions(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, size: int, strides: Sequence[int] = STRIDES
) -> Tensor:
    """RoIAlign each box on its own level only.

    Args:
        maps: [P2, P3, P4, P5] or any others, each [N, C, H, W].
        boxes: XYXY view pixels, float [N, B, 4], on the CPU: to ask a device how many of them lie on a level
            would wait for all it has still to do.
        levels: int64 [N, B], numbers of maps, as of :func:`assign_levels`; on the CPU too.
        size: side of the output grid.
        strides: of the maps, in pixels.

    Returns:
        float32 (the maps' dtype, if that is wider) [N * B, C, size, size], in the order of `boxes`.
    """
    count = boxes.shape[1]
    images = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype).repeat_interleave(count)
    rois = torch.cat([images[:, None], boxes.flatten(0, 1)], dim=1)
    flat = levels.flatten()
    pooled, order = [], []
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        # A map without a box passes too: its zero gradient keeps distributed training in step.
        chosen = torch.nonzero(flat == level).squeeze(1)
        wide = features if features.dtype == torch.float64 else features.float()
        here = rois[chosen].to(wide.device, wide.dtype, non_blocking=True)
        pooled.append(roi_align(wide, here, size, 1.0 / stride, sampling_ratio=0, aligned=True))
        order.append(chosen)
    together = torch.cat(pooled)
    return together[torch.argsort(torch.cat(order)).to(together.device, non_blocking=True)]

"""The head of FCOS, and which point of the pyramid is to find which object (FCOS, 3.1 to 3.3)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

from soco_core.detection.dense import DENSE_STRIDES

Variant = Literal["mmdetection", "detectron2"]
NORM_GROUPS = 32
CENTRE_RADIUS = 1.5
"""In strides (detectron2)."""


class FcosOutputs(NamedTuple):
    """What the head says of each point of all levels, in the order of :func:`pyramid_points`."""

    logits: Tensor
    """Of the classes, [images, points, classes]."""
    distances: Tensor
    """To the object's left, upper, right and lower side in pixels, at least 0, [images, points, 4]."""
    centerness: Tensor
    """Logits, [images, points]."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the norm of the branches: 32 groups from 64 channels on.

    Narrow networks have two channels a group at least: a map of one cell has nothing else to norm.
    """
    return nn.GroupNorm(math.gcd(NORM_GROUPS, max(1, channels // 2)), channels)


class FcosHead(nn.Module):
    """Two branches of four convolutions with group norm, and three predictors, shared by all levels.

    Args:
        channels: of each level.
        num_classes: without the background.
        variant: where the centerness is predicted, and how an output becomes a distance.
    """

    def __init__(self, channels: int, num_classes: int, variant: Variant) -> None:
        super().__init__()
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=group_norm)
        self.regression_head = FCOSRegressionHead(channels, 1, norm_layer=group_norm)
        self.scales = nn.Parameter(torch.ones(len(DENSE_STRIDES))) if variant == "mmdetection" else None

    def forward(self, features: list[Tensor]) -> FcosOutputs:
        """Return the outputs for P3..P7, each [images, channels, H, W]."""
        logits, distances, centerness = [], [], []
        boxes = self.regression_head
        for level, (feature, stride) in enumerate(zip(features, DENSE_STRIDES, strict=True)):
            of_class, of_box = self.classification_head.conv(feature), boxes.conv(feature)
            logits.append(_by_point(self.classification_head.cls_logits(of_class)))
            output = _by_point(boxes.bbox_reg(of_box))
            if self.scales is None:
                distances.append(torch.relu(output) * stride)
                centerness.append(_by_point(boxes.bbox_ctrness(of_box)))
            else:
                distances.append(torch.exp(self.scales[level] * output))
                centerness.append(_by_point(boxes.bbox_ctrness(of_class)))
        return FcosOutputs(torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(centerness, 1).squeeze(2))


def pyramid_points(features: list[Tensor]) -> list[Tensor]:
    """Return the centres of each level's cells as x and y in input pixels, [H x W, 2] row by row."""
    levels = []
    for feature, stride in zip(features, DENSE_STRIDES, strict=True):
        height, width = feature.shape[-2:]
        rows = (torch.arange(height, device=feature.device) + 0.5) * stride
        columns = (torch.arange(width, device=feature.device) + 0.5) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        levels.append(torch.stack([x.flatten(), y.flatten()], dim=1))
    return levels


def assign_points(levels: list[Tensor], boxes: Tensor, limits: tuple[int, ...], variant: Variant) -> Tensor:
    """Return the object that each point is to find, or -1, int64 [points].

    A point finds an object if it lies in its box and its farthest side is within the limits of the point's level; of
    several objects the smallest. In ``detectron2`` it must also be near the centre.

    Args:
        levels: x and y of each level's points in pixels, [points of the level, 2].
        boxes: XYXY in pixels, [objects, 4].
        limits: largest distances of all levels but the last, in pixels.
        variant: decides on centre sampling, and whether a distance on a limit counts (MMDetection: on both levels).
    """
    points = torch.cat(levels)
    if len(boxes) == 0:
        return torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    counts = torch.tensor([len(level) for level in levels], device=points.device)
    bounds = torch.tensor([0.0, *limits, math.inf], device=points.device)
    least, largest = (bounds[part].repeat_interleave(counts)[:, None] for part in (slice(0, -1), slice(1, None)))
    sides = box_sides(points[:, None], boxes[None])
    farthest = sides.amax(2)
    if variant == "mmdetection":
        fits = (farthest >= least) & (farthest <= largest)
    else:
        strides = torch.tensor(DENSE_STRIDES, device=points.device).repeat_interleave(counts)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        off_centre = (points[:, None] - centres[None]).abs().amax(2)
        fits = (farthest > least) & (farthest < largest) & (off_centre < CENTRE_RADIUS * strides[:, None])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    smallest, match = torch.where(fits & (sides.amin(2) > 0), areas, math.inf).min(1)
    return torch.where(smallest.isinf(), -1, match)


def box_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances from points [..., 2] to the left, upper, right and lower sides of boxes [..., 4]."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def centerness_of(sides: Tensor) -> Tensor:
    """Return sqrt(min(l, r) / max(l, r) x min(t, b) / max(t, b)), in 0..1, of distances [N, 4] (FCOS, equation 3)."""
    across, down = sides[:, 0::2], sides[:, 1::2]
    return torch.sqrt(across.amin(1) / across.amax(1) * down.amin(1) / down.amax(1))


def _by_point(outputs: Tensor) -> Tensor:
    """[images, values, H, W] -> [images, H x W, values], in float32, whatever the head computes in."""
    return outputs.float().flatten(2).transpose(1, 2)

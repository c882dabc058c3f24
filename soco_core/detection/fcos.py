"""FCOS (Table 7b), as MMDetection's 1x configuration has it or as detectron2 and torchvision do.

=========================  ===========================================  =====================================
..                         ``mmdetection``                              ``detectron2``
=========================  ===========================================  =====================================
positive points            all in a box                                 within 1.5 strides of its centre
distance to a side         exp(scale x output), a scale for each level  ReLU(output) x stride
centerness                 on the branch of the classes                 on the branch of the boxes
box loss                   -log IoU, weighted by centerness             GIoU
score                      class x centerness                           square root of that
above the threshold        the class                                    the score
=========================  ===========================================  =====================================

Both have group norm in the head, the focal loss, and P6 from P5. A loss is divided by the number of positive points in
a process's batch (MMDetection: that of all processes; detectron2: a moving average), the weighted one by its weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss

from soco_core.config import FinetuneConfig, Recipe
from soco_core.detection.dense import CANDIDATES, NMS_THRESHOLD, dense_pyramid, focal_loss
from soco_core.detection.fcos_head import (
    FcosHead,
    FcosOutputs,
    assign_points,
    box_sides,
    centerness_of,
    pyramid_points,
)
from soco_core.detection.layers import NoResize

LEAST_IOU = 1e-6
"""Below it the IoU loss is flat (MMDetection)."""


def build_fcos(recipe: Recipe, num_classes: int) -> Fcos:
    """Build FCOS (:func:`soco_core.detection.model.build_detector`)."""
    backbone = dense_pyramid(recipe, from_p5=True)
    head = FcosHead(backbone.out_channels, num_classes, recipe.finetune.fcos_variant)
    return Fcos(backbone, head, recipe.finetune)


class Fcos(nn.Module):
    """The detector.

    Args:
        backbone: returns P3..P7 by name.
        head: of the variant in `settings`.
        settings: variant, limits of the levels, threshold and number of detections.
    """

    def __init__(self, backbone: nn.Module, head: FcosHead, settings: FinetuneConfig) -> None:
        super().__init__()
        self.transform = NoResize()
        self.backbone, self.head, self.settings = backbone, head, settings

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training, detections in evaluation."""
        batch, _ = self.transform(images)
        features = list(self.backbone(batch.tensors).values())
        outputs, levels = self.head(features), pyramid_points(features)
        if self.training:
            assert targets is not None
            return self.losses(outputs, levels, targets)
        return [
            self._detections(FcosOutputs(*(part[index] for part in outputs)), levels, shape)
            for index, shape in enumerate(batch.image_sizes)
        ]

    def losses(self, outputs: FcosOutputs, levels: list[Tensor], targets: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the losses of classes, boxes and centerness.

        Args:
            outputs: of the head.
            levels: points of each level, [points, 2].
            targets: `boxes` XYXY [N, 4] and `labels` from 1 [N] of each image.
        """
        variant, limits = self.settings.fcos_variant, self.settings.fcos_limits
        matches = torch.stack([assign_points(levels, target["boxes"], limits, variant) for target in targets])
        positive = matches >= 0
        found = [match[match >= 0] for match in matches]
        wanted = torch.cat([target["boxes"][chosen] for target, chosen in zip(targets, found, strict=True)])
        classes = torch.zeros_like(matches)
        classes[positive] = torch.cat([target["labels"][chosen] for target, chosen in zip(targets, found, strict=True)])
        points = torch.cat(levels).expand(len(targets), -1, -1)[positive]
        boxes = _boxes(points, outputs.distances[positive])
        centred = centerness_of(box_sides(points, wanted))
        count = positive.sum().clamp(min=1)
        if variant == "mmdetection":
            box_loss = (iou_loss(boxes, wanted) * centred).sum() / centred.sum().clamp(min=LEAST_IOU)
        else:
            box_loss = generalized_box_iou_loss(boxes, wanted, reduction="sum") / count
        centerness_loss = F.binary_cross_entropy_with_logits(outputs.centerness[positive], centred, reduction="sum")
        return {
            "loss_classifier": focal_loss(outputs.logits.flatten(0, 1), classes.flatten()) / count,
            "loss_box_reg": box_loss,
            "loss_centerness": centerness_loss / count,
        }

    def _detections(self, outputs: FcosOutputs, levels: list[Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
        """Return the detections of an image from the outputs of its points, [points, ...]."""
        counts = [len(level) for level in levels]
        parts = [
            self._candidates(*level) for level in zip(*(part.split(counts) for part in outputs), levels, strict=True)
        ]
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        boxes = clip_boxes_to_image(boxes, shape)
        keep = batched_nms(boxes, scores, labels, NMS_THRESHOLD)[: self.settings.detections_per_image]
        return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}

    def _candidates(
        self, logits: Tensor, distances: Tensor, centerness: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels (from 1) of a level's best detections."""
        of_class = logits.sigmoid()
        scores = of_class * centerness.sigmoid()[:, None]
        if self.settings.fcos_variant == "detectron2":
            scores = of_class = scores.sqrt()
        enough = (of_class > self.settings.score_threshold).flatten().nonzero()[:, 0]
        best, order = scores.flatten()[enough].topk(min(CANDIDATES, len(enough)))
        chosen = enough[order]
        at = chosen // logits.shape[1]
        return _boxes(points[at], distances[at]), best, chosen % logits.shape[1] + 1


def iou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Return -log of the IoU of each box with its own object, both XYXY [N, 4]."""
    overlap = (torch.minimum(boxes[:, 2:], wanted[:, 2:]) - torch.maximum(boxes[:, :2], wanted[:, :2])).clamp(min=0)
    shared = overlap.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1)
    return -(shared / (areas - shared)).clamp(min=LEAST_IOU).log()


def _boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Return XYXY [N, 4] of points [N, 2] and the distances to their sides [N, 4]."""
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)

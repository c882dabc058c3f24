"""RetinaNet of torchvision's parts, with the settings of MMDetection's 1x configuration (Table 7a).

L1 box loss, focal loss, four convolutions without a norm in each branch, anchors of three sizes an octave and three
ratios; an anchor is positive from IoU 0.5 on and ignored from 0.4 on. MMDetection divides both losses by the number of
positive anchors of a process's batch; so does this. detectron2 divides by a moving average of that number.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from soco_core.config import Recipe
from soco_core.detection.dense import CANDIDATES, DENSE_STRIDES, NMS_THRESHOLD, dense_pyramid, focal_loss
from soco_core.detection.layers import NoResize, UnroundedAnchors

OCTAVE_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
USUAL_CHANNELS = 256


def build_retinanet(recipe: Recipe, num_classes: int) -> RetinaNet:
    """Build RetinaNet (:func:`soco_core.detection.model.build_detector`)."""
    settings = recipe.finetune
    backbone = dense_pyramid(recipe, from_p5=False)
    sizes = [tuple(size * scale for scale in OCTAVE_SCALES) for size in settings.anchor_sizes]
    anchors = UnroundedAnchors(sizes, DENSE_STRIDES[0])
    model = UnshiftedRetinaNet(
        backbone,
        num_classes,
        anchor_generator=anchors,
        head=BatchRetinaNetHead(backbone.out_channels, anchors.num_anchors_per_location()[0], num_classes),
        score_thresh=settings.score_threshold,
        nms_thresh=NMS_THRESHOLD,
        detections_per_img=settings.detections_per_image,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.4,
        topk_candidates=CANDIDATES,
    )
    model.transform = NoResize()
    return model


class BatchRetinaNetHead(RetinaNetHead):
    """Losses over the batch as a whole; torchvision's are means over the images, and of other classes.

    Args:
        channels: of each level.
        num_anchors: at each place.
        num_classes: without the background.
    """

    def __init__(self, channels: int, num_anchors: int, num_classes: int) -> None:
        super().__init__(channels, num_anchors, num_classes)
        # The usual deviation is that of 256 channels; without norms the signal of narrow branches would vanish by it.
        deviation = 0.01 * math.sqrt(USUAL_CHANNELS / channels)
        for branch in (self.classification_head, self.regression_head):
            for layer in branch.conv.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=deviation)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Return what torchvision's head returns, in float32, whatever it computes in."""
        return {name: outputs.float() for name, outputs in super().forward(x).items()}

    def compute_loss(
        self,
        targets: list[dict[str, Any]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return the focal loss and the L1 loss of the deltas, each by the number of positive anchors in the batch.

        Args:
            targets: `boxes` XYXY [N, 4] and `labels` from 1 [N] of each image.
            head_outputs: `cls_logits` [images, anchors, classes], `bbox_regression` [images, anchors, 4].
            anchors: XYXY, [anchors, 4] of each image.
            matched_idxs: the object of each anchor; -1 for background, -2 for ignored, [anchors] of each image.
        """
        matches = torch.stack(matched_idxs)
        classes = torch.zeros_like(matches)
        deltas = head_outputs["bbox_regression"]
        box_loss = deltas.sum() * 0
        for image, (target, match) in enumerate(zip(targets, matched_idxs, strict=True)):
            chosen = torch.where(match >= 0)[0]
            classes[image, chosen] = target["labels"][match[chosen]]
            wanted = self.regression_head.box_coder.encode_single(
                target["boxes"][match[chosen]], anchors[image][chosen]
            )
            box_loss = box_loss + F.l1_loss(deltas[image, chosen], wanted, reduction="sum")
        valid = matches > -2
        class_loss = focal_loss(head_outputs["cls_logits"][valid], classes[valid])
        positives = (matches >= 0).sum().clamp(min=1)
        return {"loss_classifier": class_loss / positives, "loss_box_reg": box_loss / positives}


class UnshiftedRetinaNet(RetinaNet):
    """A RetinaNet without an output for background, whose detections have labels from 1."""

    def postprocess_detections(
        self, head_outputs: Any, anchors: Any, image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return `boxes`, `scores` and `labels` (from 1) of each image."""
        found = super().postprocess_detections(head_outputs, anchors, image_shapes)
        return [{**item, "labels": item["labels"] + 1} for item in found]

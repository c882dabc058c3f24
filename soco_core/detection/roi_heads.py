"""The heads of two-stage detectors and their losses, as detectron2's (4.2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference

from soco_core.detection.masks import Mask, mask_target


class DetectionRoIHeads(RoIHeads):
    """Box heads, and mask heads where there are any, with an L1 box loss and rasterised mask targets."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return (detections, {}) in evaluation, ([], losses) in training."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        logits, deltas = self.classify(self.regions(features, proposals, image_shapes))
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        found = [
            dict(zip(("boxes", "scores", "labels"), values, strict=True))
            for values in zip(boxes, scores, labels, strict=True)
        ]
        if self.has_mask():
            if sum(len(item) for item in boxes) == 0:
                masks: Any = [item.new_zeros(0, 1, 1, 1) for item in boxes]
            else:
                masks = maskrcnn_inference(self.masks(features, boxes, image_shapes), labels)
            for item, mask in zip(found, masks, strict=True):
                item["masks"] = mask
        return found, {}

    def regions(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Return what the box head makes of each box, [boxes of all images, ...]."""
        return self.box_head(self.box_roi_pool(features, boxes, image_shapes))

    def classify(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits [N, classes + 1] and deltas [N, 4 x (classes + 1)] of what :meth:`regions` returns."""
        logits, deltas = self.box_predictor(regions)
        return logits.float(), deltas.float()

    def masks(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
        regions: Tensor | None = None,
    ) -> Tensor:
        """Return mask logits [boxes of all images, classes + 1, side, side].

        Args:
            features: what the backbone returns.
            boxes: XYXY in input pixels, [N, 4] for each image.
            image_shapes: (height, width) of each image.
            regions: what :meth:`regions` returned for the boxes, if it was asked.
        """
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]],
    ) -> dict[str, Tensor]:
        chosen, matches, labels, deltas = self.select_training_samples(proposals, targets)
        regions = self.regions(features, chosen, image_shapes)
        logits, predicted = self.classify(regions)
        every = torch.cat(labels)
        losses = {
            "loss_classifier": F.cross_entropy(logits, every),
            "loss_box_reg": box_loss(predicted, every, torch.cat(deltas)),
        }
        if not self.has_mask():
            return losses
        positive = [item > 0 for item in labels]
        boxes = [item[keep] for item, keep in zip(chosen, positive, strict=True)]
        masks: list[Mask] = []
        for target, match, keep in zip(targets, matches, positive, strict=True):
            masks += [target["masks"][index] for index in match[keep].tolist()]
        losses["loss_mask"] = mask_loss(
            self.masks(features, boxes, image_shapes, regions[every > 0]).float(),
            every[every > 0],
            torch.cat(boxes),
            masks,
        )
        return losses


def box_loss(predicted: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the L1 loss of the objects' deltas, summed and divided by the number of all sampled boxes.

    Args:
        predicted: deltas for every class, [N, 4 x (classes + 1)].
        labels: class of each box, 0 for background, [N].
        targets: deltas to reach, [N, 4].
    """
    positive = torch.where(labels > 0)[0]
    own = predicted.reshape(len(predicted), -1, 4)[positive, labels[positive]]
    return F.l1_loss(own, targets[positive], reduction="sum") / max(labels.numel(), 1)


def mask_loss(logits: Tensor, labels: Tensor, boxes: Tensor, masks: list[Mask]) -> Tensor:
    """Return the mean binary cross entropy of each object's mask in its box, for its own class.

    Args:
        logits: [objects, classes + 1, side, side].
        labels: class of each object, from 1, [objects].
        boxes: XYXY, [objects, 4].
        masks: the mask of each object, in the same pixels as the boxes.
    """
    if not masks:
        return logits.sum() * 0
    side = logits.shape[-1]
    corners = boxes.detach().cpu().double().numpy()
    targets = torch.stack([mask_target(mask, box, side) for mask, box in zip(masks, corners, strict=True)])
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(own, targets.to(own))

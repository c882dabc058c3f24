"""RetinaNet and FCOS of detectron2, with the losses' normaliser and the variants of MMDetection (Table 7).

The paper used MMDetection for both. Its losses are divided by the positive anchors of the batch; detectron2 divides by
a moving average of their number, a state that no checkpoint has. FCOS follows `finetune.fcos_variant` and
`finetune.fcos_limits` (:mod:`soco_core.detection.fcos` lists the differences); what detectron2 lacks of
``mmdetection`` stands here. What remains detectron2's: boxes are clipped to the image behind the NMS.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.modeling.meta_arch import FCOS, RetinaNet
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.structures import Boxes
from torch import Tensor, nn

from soco_core.config import FinetuneConfig, Recipe
from soco_core.detection.dense import CANDIDATES, DENSE_STRIDES, NMS_THRESHOLD, focal_loss
from soco_core.detection.detectron2_engine.adapter import Detectron2Detector
from soco_core.detection.fcos import LEAST_IOU, iou_loss
from soco_core.detection.fcos_head import assign_points, box_sides, centerness_of, group_norm

LEVELS = ["p3", "p4", "p5", "p6", "p7"]


class DenseAdapter(Detectron2Detector):
    """Divides the losses by the positive anchors of a process's batch."""

    def trained(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the losses; the same of each call."""
        # The focal loss is TorchScript, whose first calls differ from the later, optimised ones in the last digits:
        # a training that goes on would not be the unbroken one.
        with torch.jit.optimized_execution(False):
            return super().trained(inputs)

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        """Return the batch's own number instead of a moving average."""
        return value


class DenseRetinaNet(DenseAdapter, RetinaNet):
    """RetinaNet; nothing else differs."""


def build_fcos(recipe: Recipe, cfg: Any, num_classes: int) -> DenseFcos:
    """Build FCOS, with P6 from P5, in the recipe's variant.

    Args:
        recipe: `model.fpn_channels` and `finetune` are used.
        cfg: detectron2's settings of the backbone.
        num_classes: without the background.
    """
    channels = recipe.model.fpn_channels
    body = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    backbone = FPN(
        body, cfg.MODEL.FPN.IN_FEATURES, channels, cfg.MODEL.FPN.NORM, LastLevelP6P7(channels, channels, "p5")
    )
    made = DenseFcos if recipe.finetune.fcos_variant == "detectron2" else MmdetectionFcos
    return made(
        recipe.finetune,
        backbone=backbone,
        head=made.head_class(
            input_shape=[ShapeSpec(channels=channels)] * len(LEVELS),
            num_classes=num_classes,
            conv_dims=[channels] * 4,
            norm=group_norm,
        ),
        head_in_features=LEVELS,
        box2box_transform=Box2BoxTransformLinear(normalize_by_size=made.in_strides),
        num_classes=num_classes,
        test_score_thresh=recipe.finetune.score_threshold,
        test_topk_candidates=CANDIDATES,
        test_nms_thresh=NMS_THRESHOLD,
        max_detections_per_image=recipe.finetune.detections_per_image,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


class MmdetectionFcosHead(FCOSHead):
    """Predicts the centerness beside the classes; a distance is exp(scale x output), with a scale for each level."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.scales = nn.Parameter(torch.ones(len(DENSE_STRIDES)))

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return logits of the classes, distances in pixels and logits of the centerness, each [N, values, H, W]."""
        of_class = [self.cls_subnet(feature) for feature in features]
        outputs = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        distances = [torch.exp(scale * output) for scale, output in zip(self.scales, outputs, strict=True)]
        return [self.cls_score(item) for item in of_class], distances, [self.ctrness(item) for item in of_class]


class DenseFcos(DenseAdapter, FCOS):
    """FCOS as detectron2 has it, with the recipe's limits of the levels.

    Args:
        settings: `fcos_variant` and `fcos_limits` are used.
        parts: those of detectron2's class.
    """

    head_class = FCOSHead
    in_strides = True
    """Whether the head's distances are in strides and not in pixels."""

    def __init__(self, settings: FinetuneConfig, **parts: Any) -> None:
        super().__init__(**parts)
        self.settings = settings

    @torch.no_grad()
    def label_anchors(self, anchors: list[Any], gt_instances: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each image the class of each point (that behind the last for background) and its box, [points, 4].

        detectron2's own rule has fixed limits.
        """
        levels = [level.get_centers() for level in anchors]
        limits, variant = self.settings.fcos_limits, self.settings.fcos_variant
        labels, boxes = [], []
        for truth in gt_instances:
            match = assign_points(levels, truth.gt_boxes.tensor, limits, variant)
            found = match >= 0
            label = torch.full_like(match, self.num_classes)
            box = truth.gt_boxes.tensor.new_zeros(len(match), 4)
            label[found], box[found] = truth.gt_classes[match[found]], truth.gt_boxes.tensor[match[found]]
            labels.append(label)
            boxes.append(box)
        return labels, boxes


class MmdetectionFcos(DenseFcos):
    """FCOS with the losses and scores of MMDetection."""

    head_class = MmdetectionFcosHead
    in_strides = False

    def __init__(self, settings: FinetuneConfig, **parts: Any) -> None:
        # The class must pass the threshold; :meth:`forward_inference` makes all other scores 0.
        super().__init__(settings, **{**parts, "test_score_thresh": 0.0})

    def losses(
        self,
        anchors: list[Any],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return the focal loss, the IoU loss weighted by the centerness, and that of the centerness."""
        labels = torch.stack(gt_labels)
        positive = labels != self.num_classes
        centres = Boxes.cat(anchors).get_centers().expand(len(labels), -1, -1)[positive]
        wanted, distances = torch.stack(gt_boxes)[positive], torch.cat(pred_anchor_deltas, 1)[positive]
        boxes = torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], dim=1)
        centred = centerness_of(box_sides(centres, wanted))
        count = positive.sum().clamp(min=1)
        centerness = torch.cat(pred_centerness, 1).squeeze(2)[positive]
        # focal_loss counts classes from 1 and the background as 0.
        classes = torch.where(positive, labels + 1, 0)
        return {
            "loss_fcos_cls": focal_loss(torch.cat(pred_logits, 1).flatten(0, 1), classes.flatten()) / count,
            "loss_fcos_loc": (iou_loss(boxes, wanted) * centred).sum() / centred.sum().clamp(min=LEAST_IOU),
            "loss_fcos_ctr": F.binary_cross_entropy_with_logits(centerness, centred, reduction="sum") / count,
        }

    def forward_inference(self, images: Any, features: list[Tensor], predictions: list[list[Tensor]]) -> list[Any]:
        """Return the instances of each image; the class alone must pass the threshold."""
        logits, distances, centerness = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        anchors = self.anchor_generator(features)
        found = []
        for index, size in enumerate(images.image_sizes):
            of_class = [level[index].sigmoid() for level in logits]
            scores = [
                torch.where(level > self.settings.score_threshold, level * centred[index].sigmoid(), 0.0)
                for level, centred in zip(of_class, centerness, strict=True)
            ]
            candidates = [level[index] for level in distances]
            found.append(self.inference_single_image(anchors, scores, candidates, size))
        return found

"""The detectors of the engine `detectron2`."""

from __future__ import annotations

import math

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from torch import nn

from soco_core.config import Recipe
from soco_core.detection.detectron2_engine.adapter import TwoStageDetector
from soco_core.detection.detectron2_engine.config import detectron2_config
from soco_core.detection.detectron2_engine.dense import DenseRetinaNet, build_fcos
from soco_core.detection.detectron2_engine.res5 import Res5ROIHeadsExtraNorm
from soco_core.detection.retinanet import USUAL_CHANNELS


def build_detectron2_detector(recipe: Recipe, num_classes: int) -> nn.Module:
    """Build the detector with weights that detectron2 initialises, drawn from torch's global generator.

    Called as :func:`soco_core.detection.model.build_detector` describes.

    Args:
        recipe: the resolved recipe; `model` and `finetune` are used.
        num_classes: number of categories, without the background.
    """
    cfg = detectron2_config(recipe, num_classes)
    match recipe.finetune.detector:
        case "retinanet":
            return _retinanet(DenseRetinaNet(cfg), recipe.model.fpn_channels)
        case "fcos":
            return build_fcos(recipe, cfg, num_classes)
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    shapes = backbone.output_shape()
    proposals = build_proposal_generator(cfg, shapes)
    if recipe.finetune.has_pyramid:
        heads = build_roi_heads(cfg, shapes)
        for pooler in (heads.box_pooler, heads.mask_pooler):
            # detectron2 has no setting for it.
            pooler.canonical_box_size = recipe.finetune.canonical_box_size
    else:
        heads = Res5ROIHeadsExtraNorm(cfg, shapes)
    return TwoStageDetector(
        backbone=backbone,
        proposal_generator=proposals,
        roi_heads=heads,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


def _retinanet(model: DenseRetinaNet, channels: int) -> DenseRetinaNet:
    """Initialise the branches as the other engine does: without norms the signal of narrow ones would vanish."""
    deviation = 0.01 * math.sqrt(USUAL_CHANNELS / channels)
    for branch in (model.head.cls_subnet, model.head.bbox_subnet):
        for layer in branch:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=deviation)
    return model

"""Mask R-CNN with a ResNet-FPN, of torchvision's parts, computing as detectron2 does (4.2), and what C4 shares with it.

Batch norm is everywhere (backbone, FPN, box head, mask head) and trained; no layer is frozen.
The names of the parameters are torchvision's.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from soco_core.config import FinetuneConfig, Recipe
from soco_core.detection.layers import (
    AlignedRoIAlign,
    FloatRPNHead,
    NoResize,
    ProposalNetwork,
    UnroundedAnchors,
)
from soco_core.detection.roi_heads import DetectionRoIHeads

MASK_ROI_SIZE = 14


def build_mask_rcnn_fpn(recipe: Recipe, num_classes: int) -> GeneralizedRCNN:
    """Build Mask R-CNN with FPN (:func:`soco_core.detection.model.build_detector`)."""
    settings, sizes = recipe.finetune, recipe.model
    channels = sizes.fpn_channels
    rpn = proposal_network(settings, UnroundedAnchors([(size,) for size in settings.anchor_sizes]), channels)
    box_head = FastRCNNConvFCHead(
        (channels, sizes.roi_size, sizes.roi_size),
        [channels] * sizes.head_convs,
        [sizes.head_fc_size],
        norm_layer=nn.BatchNorm2d,
    )
    heads = DetectionRoIHeads(
        AlignedRoIAlign(sizes.roi_size, settings.canonical_box_size),
        box_head,
        FastRCNNPredictor(sizes.head_fc_size, num_classes + 1),
        **sampling(settings),
        mask_roi_pool=AlignedRoIAlign(MASK_ROI_SIZE, settings.canonical_box_size),
        mask_head=MaskRCNNHeads(channels, [settings.mask_channels] * settings.mask_convs, 1, nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(settings.mask_channels, settings.mask_channels, num_classes + 1),
    )
    for module in heads.box_head.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)
    initialise_predictors(heads)
    return GeneralizedRCNN(_backbone(recipe), rpn, heads, NoResize())


def proposal_network(settings: FinetuneConfig, anchors: UnroundedAnchors, channels: int) -> ProposalNetwork:
    """Return the region proposal network for feature maps of so many channels."""
    return ProposalNetwork(
        anchors,
        FloatRPNHead(channels, num_anchors=anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=settings.rpn_batch_per_image,
        positive_fraction=0.5,
        pre_nms_top_n={"training": settings.anchors_train, "testing": settings.anchors_test},
        post_nms_top_n={"training": settings.proposals_train, "testing": settings.proposals_test},
        nms_thresh=0.7,
    )


def sampling(settings: FinetuneConfig) -> dict[str, Any]:
    """Return how RoI heads sample proposals in training and choose detections, as arguments of torchvision's class."""
    return {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": settings.roi_batch_per_image,
        "positive_fraction": 0.25,
        "bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
        "score_thresh": settings.score_threshold,
        "nms_thresh": 0.5,
        "detections_per_img": settings.detections_per_image,
    }


def initialise_predictors(heads: RoIHeads) -> None:
    """Initialise as detectron2 does what torchvision initialises otherwise; all other layers are equal already."""
    predictors = [(heads.box_predictor.cls_score, 0.01), (heads.box_predictor.bbox_pred, 0.001)]
    if heads.has_mask():
        predictors.append((heads.mask_predictor.mask_fcn_logits, 0.001))
        nn.init.zeros_(heads.mask_predictor.conv5_mask.bias)
    for layer, deviation in predictors:
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)


def _backbone(recipe: Recipe) -> BackboneWithFPN:
    body = getattr(resnet, recipe.model.backbone)(weights=None)
    width = body.fc.in_features // 8
    layers = {f"layer{index + 1}": str(index) for index in range(4)}
    return BackboneWithFPN(
        body,
        layers,
        [width << index for index in range(4)],
        recipe.model.fpn_channels,
        LastLevelMaxPool(),
        norm_layer=nn.BatchNorm2d,
    )

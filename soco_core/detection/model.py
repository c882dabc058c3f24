"""Mask R-CNN with a ResNet-FPN, of torchvision's parts, computing as detectron2 does (4.2).

Batch norm is everywhere (backbone, FPN, box head, mask head) and trained; no layer is frozen.
The names of the parameters are torchvision's.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from soco_core.config import Recipe
from soco_core.detection.layers import AlignedRoIAlign, MaskRoIHeads, NoResize, ProposalNetwork, UnroundedAnchors

MASK_ROI_SIZE = 14


def build_detector(recipe: Recipe, num_classes: int) -> GeneralizedRCNN:
    """Build the detector with freshly initialised weights, as detectron2 initialises them.

    Called with images (float RGB [3, H, W] in 0..255, already resized) and, in training, targets (``boxes``
    float XYXY [N, 4], ``labels`` int64 [N] from 1, ``masks`` a list of N :data:`soco_core.detection.masks.Mask`),
    it returns a dict of losses in training and a list of detections in evaluation (``boxes``, ``scores``,
    ``labels``, and ``masks`` as probabilities [N, 1, 28, 28] within the boxes).

    Args:
        recipe: the resolved recipe; `model` and `finetune` are used.
        num_classes: number of categories, without the background.
    """
    settings, sizes = recipe.finetune, recipe.model
    channels = sizes.fpn_channels
    rpn = ProposalNetwork(
        UnroundedAnchors(settings.anchor_sizes),
        RPNHead(channels, num_anchors=3),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=settings.rpn_batch_per_image,
        positive_fraction=0.5,
        pre_nms_top_n={"training": settings.anchors_train, "testing": settings.anchors_test},
        post_nms_top_n={"training": settings.proposals_train, "testing": settings.proposals_test},
        nms_thresh=0.7,
    )
    box_head = FastRCNNConvFCHead(
        (channels, sizes.roi_size, sizes.roi_size),
        [channels] * sizes.head_convs,
        [sizes.head_fc_size],
        norm_layer=nn.BatchNorm2d,
    )
    heads = MaskRoIHeads(
        AlignedRoIAlign(sizes.roi_size, settings.canonical_box_size),
        box_head,
        FastRCNNPredictor(sizes.head_fc_size, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=settings.roi_batch_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=settings.score_threshold,
        nms_thresh=0.5,
        detections_per_img=settings.detections_per_image,
        mask_roi_pool=AlignedRoIAlign(MASK_ROI_SIZE, settings.canonical_box_size),
        mask_head=MaskRCNNHeads(channels, [settings.mask_channels] * settings.mask_convs, 1, nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(
            settings.mask_channels if settings.mask_convs else channels, settings.mask_channels, num_classes + 1
        ),
    )
    _initialise(heads)
    return GeneralizedRCNN(_backbone(recipe), rpn, heads, NoResize())


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


def _initialise(heads: MaskRoIHeads) -> None:
    """Layers that torchvision initialises otherwise than detectron2; all other layers are equal already."""
    for module in heads.box_head.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)
    predictors = (
        (heads.box_predictor.cls_score, 0.01),
        (heads.box_predictor.bbox_pred, 0.001),
        (heads.mask_predictor.mask_fcn_logits, 0.001),
    )
    for layer, deviation in predictors:
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(heads.mask_predictor.conv5_mask.bias)

"""detectron2's settings from a recipe: in code, since its model zoo needs a package that newer setuptools lack."""

from __future__ import annotations

from typing import Any, NamedTuple

from detectron2.config import CfgNode, get_cfg

from soco_core.config import Recipe
from soco_core.detection.dense import CANDIDATES, NMS_THRESHOLD
from soco_core.detection.retinanet import OCTAVE_SCALES
from soco_core.models.backbone import PIXEL_MEAN, PIXEL_STD

NORM = "BN"
"""Batch norm of one process; what several compute together is replaced afterwards, in both engines alike."""
PYRAMID = ["p2", "p3", "p4", "p5"]


class ResNetSizes(NamedTuple):
    """What tells torchvision's ResNets apart, in detectron2's terms."""

    depth: int
    groups: int = 1
    width: int = 64
    """Channels of a group in the first residual block's 3x3 convolution."""

    @property
    def channels(self) -> int:
        """Of the first residual block's output."""
        return 64 if self.depth < 50 else 256


RESNETS = {
    "resnet18": ResNetSizes(18),
    "resnet34": ResNetSizes(34),
    "resnet50": ResNetSizes(50),
    "resnet101": ResNetSizes(101),
    "resnet152": ResNetSizes(152),
    "resnext50_32x4d": ResNetSizes(50, 32, 4),
    "resnext101_32x8d": ResNetSizes(101, 32, 8),
    "resnext101_64x4d": ResNetSizes(101, 64, 4),
    "wide_resnet50_2": ResNetSizes(50, 1, 128),
    "wide_resnet101_2": ResNetSizes(101, 1, 128),
}


def detectron2_config(recipe: Recipe, num_classes: int) -> CfgNode:
    """Return the settings of the recipe's detector; all that is not set here has detectron2's default.

    Args:
        recipe: the resolved recipe; `model` and `finetune` are used.
        num_classes: number of categories, without the background.
    """
    cfg = get_cfg()
    _common(cfg, recipe)
    match recipe.finetune.detector:
        case "mask-rcnn-fpn":
            _two_stage(cfg, recipe, num_classes)
            _with_pyramid(cfg, recipe)
        case "mask-rcnn-c4" | "faster-rcnn-c4":
            _two_stage(cfg, recipe, num_classes)
            _on_c4(cfg, recipe)
        case "retinanet" | "fcos":
            _dense(cfg, recipe, num_classes)
    return cfg


def _common(cfg: Any, recipe: Recipe) -> None:
    sizes = RESNETS[recipe.model.backbone]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = sizes.depth
    cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = sizes.groups, sizes.width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = sizes.channels
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = NORM
    cfg.MODEL.FPN.OUT_CHANNELS = recipe.model.fpn_channels
    cfg.TEST.DETECTIONS_PER_IMAGE = recipe.finetune.detections_per_image


def _two_stage(cfg: Any, recipe: Recipe, num_classes: int) -> None:
    settings = recipe.finetune
    cfg.MODEL.MASK_ON = settings.has_masks
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = settings.rpn_batch_per_image
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = settings.anchors_train, settings.anchors_test
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = settings.proposals_train
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = settings.proposals_test
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.roi_batch_per_image
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.score_threshold
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"


def _with_pyramid(cfg: Any, recipe: Recipe) -> None:
    settings, sizes = recipe.finetune, recipe.model
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in settings.anchor_sizes]
    cfg.MODEL.RPN.IN_FEATURES = [*PYRAMID, "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = PYRAMID
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = sizes.head_convs, 1
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = sizes.fpn_channels, sizes.head_fc_size
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = sizes.roi_size
    cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = NORM
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = settings.mask_convs, settings.mask_channels


def _on_c4(cfg: Any, recipe: Recipe) -> None:
    settings = recipe.finetune
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [list(settings.anchor_sizes)]
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = settings.c4_roi_size


def _dense(cfg: Any, recipe: Recipe, num_classes: int) -> None:
    settings = recipe.finetune
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size * scale for scale in OCTAVE_SCALES] for size in settings.anchor_sizes]
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA = 0.0
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = settings.score_threshold
    cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST = CANDIDATES
    cfg.MODEL.RETINANET.NMS_THRESH_TEST = NMS_THRESHOLD

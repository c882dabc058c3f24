"""detectron2's own detectors beside ours, with the same weights: renames only, and the class without an object."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soco_core.artifacts.weight_names import to_canonical, to_target
from soco_core.config import Recipe

DEPTHS = {"resnet18": 18, "resnet50": 50}
MEAN, DEVIATION = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PARTS = (
    (r"rpn\.head\.conv\.0\.0\.", "proposal_generator.rpn_head.conv."),
    (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"roi_heads\.mask_head\.(\d+)\.0\.", "roi_heads.mask_head.mask_fcn{}."),
    (r"roi_heads\.mask_head\.(\d+)\.1\.", "roi_heads.mask_head.mask_fcn{}.norm."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
    (r"roi_heads\.box_head\.norm\.", "roi_heads.res5.norm."),
    (r"roi_heads\.box_predictor\.", "roi_heads.box_predictor."),
    (r"backbone\.fpn\.extra_blocks\.", "backbone.top_block."),
)


def base_config(recipe: Recipe, num_classes: int) -> Any:
    """The settings that all of them share; without detectron2's model zoo, which needs pkg_resources."""
    from detectron2.config import get_cfg

    cfg, settings = get_cfg(), recipe.finetune
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = MEAN, DEVIATION
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = DEPTHS[recipe.model.backbone]
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if cfg.MODEL.RESNETS.DEPTH < 50 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.FPN.OUT_CHANNELS = recipe.model.fpn_channels
    cfg.MODEL.FPN.NORM = "BN"
    cfg.MODEL.MASK_ON = settings.has_masks
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = settings.rpn_batch_per_image
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = settings.anchors_train, settings.anchors_test
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = settings.proposals_train
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = settings.proposals_test
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.roi_batch_per_image
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = settings.score_threshold
    cfg.TEST.DETECTIONS_PER_IMAGE = settings.detections_per_image
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    return cfg


def two_stage(recipe: Recipe, num_classes: int) -> nn.Module:
    """detectron2's Mask R-CNN with FPN, or a C4 detector with the authors' extra norm."""
    from detectron2.modeling import build_model

    cfg, settings, sizes = base_config(recipe, num_classes), recipe.finetune, recipe.model
    if not settings.has_pyramid:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [list(settings.anchor_sizes)]
        cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = settings.c4_roi_size
        cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = settings.c4_roi_size
        model = build_model(cfg)
        res5 = model.roi_heads.res5
        res5.add_module("norm", nn.BatchNorm2d(res5[-1].out_channels))
        return model
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in settings.anchor_sizes]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = sizes.head_convs, 1
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = sizes.fpn_channels, sizes.head_fc_size
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = sizes.roi_size
    cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = settings.mask_convs, settings.mask_channels
    return build_model(cfg)


def retinanet(recipe: Recipe, num_classes: int) -> nn.Module:
    """detectron2's RetinaNet."""
    from detectron2.modeling import build_model

    cfg = base_config(recipe, num_classes)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [
        [size * 2 ** (octave / 3) for octave in range(3)] for size in recipe.finetune.anchor_sizes
    ]
    cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA = 0.0
    return build_model(cfg)


def fcos(recipe: Recipe, num_classes: int) -> nn.Module:
    """detectron2's FCOS, with P6 from P5."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_resnet_backbone
    from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
    from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

    cfg, channels = base_config(recipe, num_classes), recipe.model.fpn_channels
    levels = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.OUT_FEATURES = levels
    body = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    backbone = FPN(body, levels, channels, norm="BN", top_block=LastLevelP6P7(channels, channels, "p5"))
    head = FCOSHead(
        input_shape=[ShapeSpec(channels=channels)] * 5, num_classes=num_classes, conv_dims=[channels] * 4, norm="GN"
    )
    return FCOS(
        backbone=backbone,
        head=head,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=num_classes,
        pixel_mean=MEAN,
        pixel_std=DEVIATION,
        test_score_thresh=recipe.finetune.score_threshold,
        test_nms_thresh=0.5,
        max_detections_per_image=recipe.finetune.detections_per_image,
    )


def randomise(model: nn.Module) -> None:
    """Weights with which no branch is nearly zero, so that a difference anywhere shows."""
    generator = torch.Generator().manual_seed(7)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith(".weight")):
            value.data.uniform_(0.5, 1.0, generator=generator)
        elif name.endswith("running_mean") or (name.endswith(".bias") and "cls_logits" not in name):
            value.data.normal_(0, 0.05, generator=generator)
        elif "mask_fcn_logits" in name:
            value.data.normal_(0, 0.3, generator=generator)
        elif re.search(r"(cls_score|cls_logits|bbox_pred|bbox_reg|bbox_ctrness)\.weight", name):
            value.data.normal_(0, 0.02, generator=generator)
        elif re.match(r"head\..*\.conv\..*weight", name):
            value.data.normal_(0, 0.06, generator=generator)


def give_weights(ours: nn.Module, theirs: nn.Module, recipe: Recipe) -> None:
    """Load our weights into detectron2's model; each of its keys must be filled."""
    detector = recipe.finetune.detector
    kind: Any = "dense" if detector in {"retinanet", "fcos"} else "fpn" if recipe.finetune.has_pyramid else "c4"
    moved = {}
    for key, value in ours.state_dict().items():
        name, tensor = _theirs(key, value, kind, recipe)
        if name is not None and not name.endswith("num_batches_tracked"):
            moved[name] = tensor
    found = theirs.load_state_dict(moved, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys), found.missing_keys


def _theirs(key: str, value: Tensor, kind: Any, recipe: Recipe) -> tuple[str | None, Tensor]:
    convolutions = recipe.model.head_convs
    canonical = to_canonical(key, "torchvision", convolutions, kind)
    if canonical is not None:
        return to_target(canonical, "detectron2", convolutions, kind), value
    if key.startswith("roi_heads.box_predictor.cls_score."):
        return key, torch.cat([value[1:], value[:1]])
    if key.startswith("roi_heads.box_predictor.bbox_pred."):
        return key, value[4:]
    if key.startswith("roi_heads.mask_predictor.mask_fcn_logits."):
        value = value[1:]
    for pattern, theirs in PARTS:
        found = re.match(pattern, key)
        if found:
            number = [int(found[1]) + 1] if found.groups() else []
            return theirs.format(*number) + key[found.end() :], value
    name = key.replace("head.classification_head.conv.", "head.cls_subnet.").replace(
        "head.regression_head.conv.", "head.bbox_subnet."
    )
    for branch, part, theirs in (
        ("classification", "cls_logits", "cls_score"),
        ("regression", "bbox_reg", "bbox_pred"),
        ("regression", "bbox_ctrness", "ctrness"),
    ):
        name = name.replace(f"head.{branch}_head.{part}.", f"head.{theirs}.")
    if recipe.finetune.detector == "retinanet":  # in ours each ReLU lies within its convolution
        name = re.sub(r"_subnet\.(\d+)\.0\.", lambda found: f"_subnet.{2 * int(found[1])}.", name)
    return name, value


def pictures() -> list[Tensor]:
    """Two images of different sizes, smooth enough for regions to differ."""
    generator = torch.Generator().manual_seed(3)
    coarse = [torch.rand(1, 3, 7, 9, generator=generator), torch.rand(1, 3, 8, 6, generator=generator)]
    sizes = [(120, 170), (150, 110)]
    return [
        nn.functional.interpolate(image, size, mode="bilinear")[0] * 255
        for image, size in zip(coarse, sizes, strict=True)
    ]


def objects() -> list[dict[str, Any]]:
    """Their objects as our targets; polygons that are no rectangles."""
    targets = []
    for boxes, labels in (
        ([[10.0, 12.0, 70.0, 90.0], [60.0, 30.0, 160.0, 110.0], [5.0, 80.0, 40.0, 118.0]], [1, 3, 2]),
        ([[20.0, 15.0, 100.0, 140.0], [50.0, 60.0, 90.0, 100.0]], [2, 3]),
    ):
        masks = [[np.array([x0, y0, x1, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1, x0, y1])] for x0, y0, x1, y1 in boxes]
        targets.append({"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "masks": masks})
    return targets


def as_inputs(images: list[Tensor], targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as detectron2's inputs."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    inputs = []
    for image, target in zip(images, targets, strict=True):
        instances = Instances(tuple(image.shape[-2:]))
        instances.gt_boxes = Boxes(target["boxes"].clone())
        instances.gt_classes = target["labels"] - 1
        instances.gt_masks = PolygonMasks(target["masks"])
        inputs.append({"image": image, "instances": instances})
    return inputs

"""The detectors of the torchvision engine."""

from __future__ import annotations

from torch import nn

from soco_core.config import Recipe
from soco_core.detection.c4 import build_c4
from soco_core.detection.fcos import build_fcos
from soco_core.detection.mask_rcnn import build_mask_rcnn_fpn
from soco_core.detection.retinanet import build_retinanet


def build_detector(recipe: Recipe, num_classes: int) -> nn.Module:
    """Build the detector with freshly initialised weights, as detectron2 initialises them.

    Called with images (float RGB [3, H, W] in 0..255, already resized) and, in training, targets (``boxes``
    float XYXY [N, 4], ``labels`` int64 [N] from 1 and, for detectors with masks, ``masks``, a list of N
    :data:`soco_core.detection.masks.Mask`), it returns a dict of losses in training and a list of detections in
    evaluation (``boxes``, ``scores``, ``labels``, and with masks ``masks`` as probabilities [N, 1, 28, 28], C4
    [N, 1, 14, 14], within the boxes).

    Args:
        recipe: the resolved recipe; `model` and `finetune` are used.
        num_classes: number of categories, without the background.
    """
    match recipe.finetune.detector:
        case "mask-rcnn-fpn":
            return build_mask_rcnn_fpn(recipe, num_classes)
        case "mask-rcnn-c4" | "faster-rcnn-c4":
            return build_c4(recipe, num_classes)
        case "retinanet":
            return build_retinanet(recipe, num_classes)
        case "fcos":
            return build_fcos(recipe, num_classes)

"""What RetinaNet and FCOS share: the pyramid P3..P7, the focal loss, and the choice of detections."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from soco_core.config import Recipe
from soco_core.models.backbone import STRIDES

DENSE_STRIDES = (8, 16, 32, 64, 128)
"""Of P3..P7."""
CANDIDATES = 1000
"""Best detections of each level that go into the NMS."""
NMS_THRESHOLD = 0.5


def dense_pyramid(recipe: Recipe, from_p5: bool) -> BackboneWithFPN:
    """Return a ResNet with an FPN of C3..C5 and with P6 and P7, batch norm in the FPN (MMDetection, detectron2).

    P6 and P7 are convolutions of stride 2 with a bias and without a norm, P7 behind a ReLU (detectron2; MMDetection has
    that ReLU in FCOS only).

    Args:
        recipe: its section `model` is used.
        from_p5: P6 comes from P5 (FCOS) and not from C5 (RetinaNet).
    """
    body = getattr(resnet, recipe.model.backbone)(weights=None)
    widths = [body.fc.in_features // 8 << index for index in range(len(STRIDES))]
    channels = recipe.model.fpn_channels
    extra = LastLevelP6P7(channels if from_p5 else widths[-1], channels)
    # torchvision guesses it from the channels, which may be equal.
    extra.use_P5 = from_p5
    layers = {f"layer{index + 1}": str(index - 1) for index in range(1, len(widths))}
    return BackboneWithFPN(body, layers, widths[1:], channels, extra, norm_layer=nn.BatchNorm2d)


def focal_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the focal loss (alpha 0.25, gamma 2), summed over places and classes.

    Args:
        logits: [places, classes].
        classes: of each place, from 1; 0 for background, int64 [places].
    """
    wanted = nn.functional.one_hot(classes, logits.shape[1] + 1)[:, 1:]
    return sigmoid_focal_loss(logits, wanted.to(logits.dtype), alpha=0.25, gamma=2.0, reduction="sum")

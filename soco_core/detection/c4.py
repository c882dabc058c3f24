"""Mask R-CNN and Faster R-CNN with a ResNet-C4, computing as detectron2's ``Res5ROIHeads`` does (4.3).

Regions are pooled from C4, the fourth residual block's output, and go through the fifth block. As in the authors'
configurations, which follow MoCo's on COCO and on VOC, one more batch norm stands behind it, without a ReLU.
Batch norm is trained everywhere; no layer is frozen.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import roi_align

from soco_core.config import Recipe
from soco_core.detection.layers import NoResize, UnroundedAnchors
from soco_core.detection.mask_rcnn import initialise_predictors, proposal_network, sampling
from soco_core.detection.roi_heads import DetectionRoIHeads
from soco_core.models.backbone import STRIDES

C4_STRIDE = STRIDES[2]
C4 = "0"
"""Name of the one feature map."""
MASK_CHANNELS = 256
"""Channels between the mask head's two layers (detectron2)."""


def build_c4(recipe: Recipe, num_classes: int) -> GeneralizedRCNN:
    """Build a C4 detector, with masks or without (:func:`soco_core.detection.model.build_detector`)."""
    settings = recipe.finetune
    backbone = C4Backbone(recipe.model.backbone)
    rpn = proposal_network(settings, UnroundedAnchors([settings.anchor_sizes], C4_STRIDE), backbone.out_channels)
    channels = 2 * backbone.out_channels
    pool = C4RoIAlign(settings.c4_roi_size)
    heads = Res5RoIHeads(
        pool,
        Res5Head(backbone.body["layer4"], channels),
        FastRCNNPredictor(channels, num_classes + 1),
        **sampling(settings),
    )
    if settings.has_masks:
        heads.mask_roi_pool, heads.mask_head = pool, nn.Identity()
        heads.mask_predictor = MaskRCNNPredictor(channels, MASK_CHANNELS, num_classes + 1)
    initialise_predictors(heads)
    # Without a pyramid no side has to be a multiple of anything (detectron2).
    return GeneralizedRCNN(backbone, rpn, heads, NoResize(divisor=1))


class C4Backbone(nn.Module):
    """A ResNet that an image passes up to the fourth block; the fifth is there for the regions.

    Args:
        name: a ResNet of torchvision.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        whole = getattr(resnet, name)(weights=None)
        self.out_channels: int = whole.fc.in_features // 2
        self.body = IntermediateLayerGetter(whole, {"layer4": C4})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return C4, [N, channels, H/16, W/16], of images [N, 3, H, W]."""
        for name, part in self.body.items():
            if name != "layer4":
                images = part(images)
        return {C4: images}


class C4RoIAlign(nn.Module):
    """Pools each box from C4 by aligned RoIAlign with an adaptive sampling grid.

    Args:
        output_size: side of the pooled grid.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Return [number of boxes in all images, channels, size, size]; `boxes` are XYXY in input pixels."""
        feature = x[C4]
        pooled = roi_align(
            feature.float(),
            [item.float() for item in boxes],
            self.output_size,
            1 / C4_STRIDE,
            sampling_ratio=0,
            aligned=True,
        )
        return pooled.to(feature.dtype)


class Res5Head(nn.Module):
    """The fifth residual block and the extra norm.

    The block is a part of the backbone, under whose name its weights are stored and loaded.

    Args:
        block: the fifth block.
        channels: of its output.
    """

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        # In a tuple it is no submodule: its parameters would have two names.
        self._block = (block,)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, regions: Tensor) -> Tensor:
        """Return [N, channels, size/2, size/2] of pooled regions [N, channels/2, size, size]."""
        return self.norm(self._block[0](regions))


class Res5RoIHeads(DetectionRoIHeads):
    """Box and mask predictors on the features of one head; in training the masks reuse those of the positives."""

    def classify(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and deltas of the regions' averages."""
        return super().classify(regions.mean((2, 3)))

    def masks(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
        regions: Tensor | None = None,
    ) -> Tensor:
        """Return mask logits [boxes of all images, classes + 1, size, size]."""
        if regions is None:
            regions = self.regions(features, boxes, image_shapes)
        return self.mask_predictor(self.mask_head(regions))

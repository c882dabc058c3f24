"""torchvision's detector parts where they compute something else than detectron2's.

The paper's numbers come from detectron2, so each class here closes one difference between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, roi_align

from soco_core.models.backbone import PIXEL_MEAN, PIXEL_STD, STRIDES

CANONICAL_LEVEL = 4


class AlignedRoIAlign(MultiScaleRoIAlign):
    """Pools each box from its level of P2..P5 by aligned RoIAlign with an adaptive sampling grid.

    torchvision's stock pooler shifts by half a pixel (``aligned=False``), samples 2x2 points, and guesses
    the strides from the first batch it sees.

    Args:
        output_size: side of the pooled grid.
        canonical_size: a box of this side in pixels belongs to P4 (FPN, equation 1).
    """

    def __init__(self, output_size: int, canonical_size: int) -> None:
        super().__init__(["0", "1", "2", "3"], output_size, 0, canonical_scale=canonical_size)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Return [number of boxes in all images, channels, size, size]; `boxes` are XYXY in input pixels."""
        features = [x[name] for name in self.featmap_names]
        images = torch.cat([torch.full_like(item[:, :1], index) for index, item in enumerate(boxes)])
        every = torch.cat(boxes)
        regions = torch.cat([images, every], dim=1)
        levels = self.levels(every)
        pooled = features[0].new_zeros(len(regions), features[0].shape[1], *self.output_size)
        for level, (feature, stride) in enumerate(zip(features, STRIDES, strict=True)):
            chosen = torch.where(levels == level)[0]
            pooled[chosen] = roi_align(
                feature.float(), regions[chosen].float(), self.output_size, 1 / stride, sampling_ratio=0, aligned=True
            ).to(pooled.dtype)
        return pooled

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the index (0 for P2 .. 3 for P5) of the level that each box [N, 4] is pooled from."""
        size = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / self.canonical_scale + 1e-8))
        return level.clamp(2, 5).to(torch.int64) - 2


class UnroundedAnchors(AnchorGenerator):
    """Anchors of exact size at fixed strides; torchvision rounds them and derives strides from the padded size.

    Args:
        sizes: the anchor sizes in pixels of each level; each comes in the ratios 0.5, 1 and 2.
        first_stride: stride of the first level; that of each next level is twice as large.
    """

    def __init__(self, sizes: Sequence[tuple[float, ...]], first_stride: int = STRIDES[0]) -> None:
        super().__init__(tuple(sizes), ((0.5, 1.0, 2.0),) * len(sizes))
        self.first_stride = first_stride

    def generate_anchors(
        self,
        scales: Any,
        aspect_ratios: Any,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return the anchors around the origin, XYXY, [sizes x ratios, 4], size-major; ratio is height / width."""
        anchors = []
        for size in scales:
            for ratio in aspect_ratios:
                width = (size * size / ratio) ** 0.5
                height = width * ratio
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(anchors, dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, [anchors of all levels, 4]."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        grids = [list(feature.shape[-2:]) for feature in feature_maps]
        strides = [[torch.tensor(self.first_stride << level, device=device)] * 2 for level in range(len(grids))]
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors] * len(image_list.image_sizes)


class FloatRPNHead(RPNHead):
    """The head of the region proposal network; boxes are decoded in float32, whatever it computes in (detectron2)."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness and deltas of each level, [N, anchors, H, W] and [N, 4 x anchors, H, W]."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class ProposalNetwork(RegionProposalNetwork):
    """RPN with L1 box loss; both losses are divided by the number of anchors that could be sampled."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the objectness and the box loss."""
        positive, negative = self.fg_bg_sampler(labels)
        chosen = torch.where(torch.cat(positive) > 0)[0]
        sampled = torch.cat([chosen, torch.where(torch.cat(negative) > 0)[0]])
        normaliser = self.fg_bg_sampler.batch_size_per_image * len(labels)
        box_loss = F.l1_loss(pred_bbox_deltas[chosen], torch.cat(regression_targets)[chosen], reduction="sum")
        objectness_loss = F.binary_cross_entropy_with_logits(
            objectness.flatten()[sampled], torch.cat(labels)[sampled], reduction="sum"
        )
        return objectness_loss / normaliser, box_loss / normaliser


class NoResize(GeneralizedRCNNTransform):
    """Normalises and pads only: the data set resizes, and the evaluation maps back to original pixels.

    Pixels are 0..255, so mean and deviation are ImageNet's times 255.

    Args:
        divisor: the sides of a batch become multiples of it.
    """

    def __init__(self, divisor: int = STRIDES[-1]) -> None:
        super().__init__(
            min_size=1, max_size=1, image_mean=list(PIXEL_MEAN), image_std=list(PIXEL_STD), size_divisible=divisor
        )

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return the image as it is."""
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """Return the detections as they are: boxes in input pixels, masks within their boxes."""
        return result

"""The heads of the C4 detectors: detectron2's, with the authors' extra norm (4.3)."""

from __future__ import annotations

from typing import Any

from detectron2.layers import get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

BLOCKS = {18: 2}
"""Residual blocks of the fifth stage; 3 in all other ResNets."""


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Regions go through the fifth residual block and one more norm, without a ReLU, as in the authors' configurations.

    detectron2's class has bottleneck blocks only; this one also the basic blocks of ResNet-18 and -34.
    """

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        """Return the block with its norm, and the number of its channels."""
        settings = cfg.MODEL.RESNETS
        channels, count = 8 * settings.RES2_OUT_CHANNELS, BLOCKS.get(settings.DEPTH, 3)
        common = {
            "stride_per_block": [2] + [1] * (count - 1),
            "in_channels": channels // 2,
            "out_channels": channels,
            "norm": settings.NORM,
        }
        if settings.DEPTH < 50:
            blocks = ResNet.make_stage(BasicBlock, count, **common)
        else:
            blocks = ResNet.make_stage(
                BottleneckBlock,
                count,
                bottleneck_channels=8 * settings.NUM_GROUPS * settings.WIDTH_PER_GROUP,
                num_groups=settings.NUM_GROUPS,
                stride_in_1x1=settings.STRIDE_IN_1X1,
                **common,
            )
        res5 = nn.Sequential(*blocks)
        res5.add_module("norm", get_norm(settings.NORM, channels))
        return res5, channels

"""The image-level feature extractor f^I: a ResNet and an FPN with batch norm (paper 3.3, 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from soco_core.config import ModelConfig

STRIDES = (4, 8, 16, 32)
"""Strides of P2..P5 (and of C2..C5) in pixels."""
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet's RGB mean and standard deviation in 0..255; weights carry over only if all training shares them."""
LEVELS = ("P2", "P3", "P4", "P5")
"""Names of the pyramid's levels in its order."""


class Encoder(nn.Module):
    """A torchvision ResNet without its classifier; parameter names are torchvision's.

    The stride sits in the 3x3 convolution, and the last batch-norm scale of each residual block starts at
    zero, so that a block starts as the identity.

    Args:
        name: of a torchvision ResNet.
        stages: residual stages that an image passes: 4, or 3 to end with C4.
        keep_last: keep the fifth block (`layer4`) where an image does not pass it: SoCo-C4's head.
    """

    def __init__(self, name: str, stages: int = 4, keep_last: bool = True) -> None:
        super().__init__()
        resnet = getattr(torchvision.models, name)(weights=None, zero_init_residual=True)
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        if stages == 4 or keep_last:
            self.layer4 = resnet.layer4
        self.stages = stages
        self.out_channels = tuple(resnet.fc.in_features // factor for factor in (8, 4, 2, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images float [N, 3, H, W] to [C2, C3, C4, C5], without C5 where there are three stages."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
            features.append(x)
        return features


class ConvBN(nn.Module):
    """A convolution without bias and its batch norm, no activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)
        nn.init.kaiming_uniform_(self.conv.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C_in, H, W] to [N, C_out, H, W]."""
        return self.bn(self.conv(x))


class FPN(nn.Module):
    """Feature pyramid with batch norm on lateral and output convolutions, nearest upsampling, P2..P5.

    It holds the convolutions that lead to the levels asked for and no others: one that no gradient reaches
    would stop distributed training, and would pass for pretrained in an export.

    Args:
        in_channels: of C2..C5.
        channels: of each level.
        levels: those that it makes, 0 for P2 to 3 for P5, rising.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, levels: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.levels = levels
        self.lateral_convs = nn.ModuleDict(
            {str(i): ConvBN(c, channels, 1) for i, c in enumerate(in_channels) if i >= levels[0]}
        )
        self.fpn_convs = nn.ModuleDict({str(i): ConvBN(channels, channels, 3) for i in levels})

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map [C2..C5] to the levels, in order, each [N, channels, H/stride, W/stride]."""
        top = self.lateral_convs["3"](features[3])
        merged = {3: top}
        for i in range(2, self.levels[0] - 1, -1):
            lateral = self.lateral_convs[str(i)](features[i])
            merged[i] = top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
        return [self.fpn_convs[str(i)](merged[i]) for i in self.levels]


class FeatureExtractor(nn.Module):
    """f^I: images to the feature maps that boxes are pooled from.

    With an FPN these are [P2, P3, P4, P5], or `single_level` alone without `scale_aware`; C4 for the C4
    architecture; `backbone_level` without FPN. `strides` and `channels` describe them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c4 = config.architecture == "c4"
        pyramid = config.use_fpn and not c4
        stages = 3 if c4 or (not pyramid and config.backbone_level == "C4") else 4
        self.encoder = Encoder(config.backbone, stages, keep_last=c4)
        self.neck: FPN | None = None
        levels: tuple[int, ...] = (stages - 1,)
        if pyramid:
            levels = (0, 1, 2, 3) if config.scale_aware else (LEVELS.index(config.single_level),)
            self.neck = FPN(self.encoder.out_channels, config.fpn_channels, levels)
        self.strides = tuple(STRIDES[level] for level in levels)
        self.channels = config.fpn_channels if pyramid else self.encoder.out_channels[stages - 1]

    def features(self, images: Tensor) -> list[Tensor]:
        """Map images float [N, 3, H, W] to maps [N, channels, H/stride, W/stride], one a stride."""
        maps = self.encoder(images)
        return maps[-1:] if self.neck is None else self.neck(maps)

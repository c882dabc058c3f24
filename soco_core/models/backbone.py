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


class Encoder(nn.Module):
    """A torchvision ResNet without its classifier; parameter names are torchvision's.

    The stride sits in the 3x3 convolution, and the last batch-norm scale of each residual block starts at
    zero, so that a block starts as the identity.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        resnet = getattr(torchvision.models, name)(weights=None, zero_init_residual=True)
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            resnet.layer1,
            resnet.layer2,
            resnet.layer3,
            resnet.layer4,
        )
        self.out_channels = tuple(resnet.fc.in_features // factor for factor in (8, 4, 2, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images float [N, 3, H, W] to [C2, C3, C4, C5]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
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
    """Feature pyramid with batch norm on lateral and output convolutions, nearest upsampling, P2..P5."""

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvBN(c, channels, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(ConvBN(channels, channels, 3) for _ in in_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map [C2..C5] to [P2..P5], each [N, channels, H/stride, W/stride]."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        top = laterals[-1]
        merged = [top]
        for lateral in reversed(laterals[:-1]):
            top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            merged.insert(0, top)
        return [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]


class PyramidExtractor(nn.Module):
    """f^I: images to [P2, P3, P4, P5]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.backbone)
        self.neck = FPN(self.encoder.out_channels, config.fpn_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images float [N, 3, H, W] to four maps of `fpn_channels` channels at strides 4, 8, 16, 32."""
        return self.neck(self.encoder(images))

"""The fixed backbone, and the classifiers that are trained on its features (paper B)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from soco_core.engine.precision import Precision
from soco_core.models.backbone import PIXEL_MEAN, PIXEL_STD, Encoder

INITIAL_STD = 0.01
"""Of a classifier's first weights (MoCo)."""


class Backbone(nn.Module):
    """A ResNet whose parameters and batch-norm statistics never change: crops become pooled features.

    Args:
        encoder: the ResNet, on its device.
        precision: of its forward passes.
    """

    def __init__(self, encoder: Encoder, precision: Precision) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = precision
        self.width: int = encoder.out_channels[-1]
        """Length of a feature."""
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)
        self.to(precision.device)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for: its statistics are fixed."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Tensor:
        """Map crops uint8 [N, 3, S, S], on any device, to the average of C5, float32 [N, `width`]."""
        images = crops.to(self.precision.device, non_blocking=True).float()
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with self.precision.autocast():
            features: Tensor = self.encoder(images)[-1]
        return features.float().mean(dim=(2, 3))


class Heads(nn.Module):
    """Linear classifiers that begin alike, whatever their number.

    Args:
        count: how many.
        width: of a feature.
        classes: number of classes.
        seed: of the first weights.
    """

    def __init__(self, count: int, width: int, classes: int, seed: int) -> None:
        super().__init__()
        first = torch.randn(classes, width, generator=torch.Generator().manual_seed(seed)) * INITIAL_STD
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(count))
        with torch.no_grad():
            for head in self.each():
                head.weight.copy_(first)
                head.bias.zero_()

    def each(self) -> list[nn.Linear]:
        """Return the classifiers."""
        return [head for head in self.heads if isinstance(head, nn.Linear)]

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map features [N, width] to logits [N, classes] of each head."""
        return [head(features) for head in self.each()]

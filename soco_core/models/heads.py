"""The object-level parts: R-CNN head f^H, projector g, predictor q (paper 3.3, 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from soco_core.config import ModelConfig


class BoxHead(nn.Module):
    """f^H, the 4conv1fc box head of Mask R-CNN: n x (3x3 convolution, BN, ReLU), FC, ReLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.depth = config.head_convs
        channels = config.fpn_channels
        for i in range(1, self.depth + 1):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels))
        self.fc1 = nn.Linear(channels * config.roi_size**2, config.head_fc_size)
        nn.init.kaiming_uniform_(self.fc1.weight, a=1)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """Map RoI features [R, channels, roi_size, roi_size] to object-level features h [R, head_fc_size]."""
        x = regions
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)).relu()
        return self.fc1(x.flatten(1)).relu()


def mlp(size_in: int, hidden_size: int, size_out: int) -> nn.Sequential:
    """Build projector or predictor: linear, BN, ReLU, linear (4.1)."""
    return nn.Sequential(
        nn.Linear(size_in, hidden_size),
        nn.BatchNorm1d(hidden_size),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_size, size_out),
    )

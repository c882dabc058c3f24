"""Small networks whose every number matters, and random views."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from soco_core.config import ModelConfig
from soco_core.models.soco import SoCo, ViewBatch


def small(**fields: object) -> ModelConfig:
    sizes = {
        "backbone": "resnet18",
        "fpn_channels": 16,
        "head_convs": 2,
        "head_fc_size": 24,
        "hidden_size": 32,
        "embedding_size": 8,
        "level_limits": (14, 20, 28),
    }
    return ModelConfig.model_validate({**sizes, **fields})


def shaken(config: ModelConfig, seed: int = 0) -> SoCo:
    """A pair in which no scale is zero, no statistic is trivial, and the target is not the online network."""
    torch.manual_seed(seed)
    networks = SoCo(config)
    for parameter in networks.target.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    for parameter in networks.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter.data, 0.5, 1.0)
    for name, buffer in networks.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.2)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return networks


def random_views(
    sides: tuple[int, ...] = (64, 64, 32),
    images: int = 2,
    boxes: int = 2,
    blocks: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> list[ViewBatch]:
    """Views with `boxes` boxes of distinct ids each; V1 has `blocks` times as many."""
    generator = torch.Generator().manual_seed(seed)
    views = []
    for number, side in enumerate(sides):
        count = boxes * blocks if number == 0 else boxes
        corner = torch.rand(images, count, 2, generator=generator) * side * 0.3
        size = side * (0.15 + 0.5 * torch.rand(images, count, 2, generator=generator))
        pixels = torch.randn(images, 3, side, side, generator=generator)
        ids = torch.arange(boxes).repeat(count // boxes).expand(images, -1)
        views.append(ViewBatch(pixels.to(dtype), torch.cat([corner, corner + size], -1).to(dtype), ids))
    return views


@pytest.fixture
def small_model() -> Callable[..., ModelConfig]:
    return small


@pytest.fixture
def pair() -> Callable[..., SoCo]:
    return shaken


@pytest.fixture
def make_views() -> Callable[..., list[ViewBatch]]:
    return random_views

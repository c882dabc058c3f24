"""Networks with canonical names, made without soco's own models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from soco_core.config import ModelConfig

StateDict = dict[str, torch.Tensor]


def random_network(model: ModelConfig) -> StateDict:
    """Return a state dict of the online network with canonical names and random values."""
    generator = torch.Generator().manual_seed(0)
    tensors: StateDict = {}

    def add(key: str, *shape: int) -> None:
        tensors[key] = torch.randn(shape, generator=generator)

    def add_bn(name: str, size: int) -> None:
        for parameter in ("weight", "bias", "running_mean"):
            add(f"{name}.{parameter}", size)
        tensors[f"{name}.running_var"] = torch.rand(size, generator=generator) + 0.5
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(len(tensors))

    pyramid = model.architecture == "fpn" and model.use_fpn
    without_last = model.architecture == "fpn" and not model.use_fpn and model.backbone_level == "C4"
    for key, value in get_model(model.backbone, weights=None).state_dict().items():
        if not key.startswith(("fc.", "layer4.") if without_last else "fc."):
            is_number = value.is_floating_point()
            noise = torch.rand(value.shape, generator=generator) + 0.5 if is_number else torch.tensor(len(tensors))
            tensors[f"encoder.{key}"] = noise
    widths = [64, 128, 256, 512] if model.backbone in {"resnet18", "resnet34"} else [256, 512, 1024, 2048]
    channels = model.fpn_channels
    level = ("P2", "P3", "P4", "P5").index(model.single_level)
    for i, width in enumerate(widths if pyramid else []):
        if model.scale_aware or i >= level:
            add(f"neck.lateral_convs.{i}.conv.weight", channels, width, 1, 1)
            add_bn(f"neck.lateral_convs.{i}.bn", channels)
        if model.scale_aware or i == level:
            add(f"neck.fpn_convs.{i}.conv.weight", channels, channels, 3, 3)
            add_bn(f"neck.fpn_convs.{i}.bn", channels)
    represented = channels if pyramid else widths[2 if without_last else 3]
    if model.architecture == "fpn" and model.use_head:
        represented = model.head_fc_size
        for i in range(1, model.head_convs + 1):
            add(f"head.conv{i}.weight", channels, channels, 3, 3)
            add_bn(f"head.bn{i}", channels)
        add("head.fc1.weight", model.head_fc_size, channels * 49)
        add("head.fc1.bias", model.head_fc_size)
    for part, size in (("projector", represented), ("predictor", model.embedding_size)):
        add(f"{part}.0.weight", model.hidden_size, size)
        add(f"{part}.0.bias", model.hidden_size)
        add_bn(f"{part}.1", model.hidden_size)
        add(f"{part}.3.weight", model.embedding_size, model.hidden_size)
        add(f"{part}.3.bias", model.embedding_size)
    return tensors


def build_torchvision_detector(model: ModelConfig) -> nn.Module:
    """Backbone, FPN and box head as torchvision's own detectors hold them, without memory for weights."""
    with torch.device("meta"):
        resnet = get_model(model.backbone, weights=None)
        width = resnet.fc.in_features
        detector = nn.Module()
        detector.backbone = BackboneWithFPN(
            resnet,
            {f"layer{i}": str(i - 1) for i in range(1, 5)},
            [width // 8, width // 4, width // 2, width],
            model.fpn_channels,
            norm_layer=nn.BatchNorm2d,
        )
        detector.roi_heads = nn.Module()
        detector.roi_heads.box_head = FastRCNNConvFCHead(
            (model.fpn_channels, 7, 7),
            [model.fpn_channels] * model.head_convs,
            [model.head_fc_size],
            norm_layer=nn.BatchNorm2d,
        )
    return detector


@pytest.fixture
def network() -> Callable[[ModelConfig], StateDict]:
    return random_network


SMALL = {
    "backbone": "resnet18",
    "fpn_channels": 16,
    "head_convs": 2,
    "head_fc_size": 32,
    "hidden_size": 24,
    "embedding_size": 8,
}
WITHOUT_FPN = {"use_fpn": False, "use_head": False, "scale_aware": False}
KINDS: dict[str, dict[str, object]] = {
    "fpn": {},
    "c4": {"architecture": "c4", "roi_size": 14},
    "one level": {"scale_aware": False},
    "without head": {"scale_aware": False, "use_head": False, "single_level": "P3"},
    "without FPN": WITHOUT_FPN,
    "without FPN, C4": {**WITHOUT_FPN, "backbone_level": "C4"},
}


@pytest.fixture
def small_model() -> ModelConfig:
    return ModelConfig.model_validate(SMALL)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model_of() -> Callable[[str], ModelConfig]:
    """Small models: the two architectures and the reduced rows of Table 4."""
    return lambda kind: ModelConfig.model_validate({**SMALL, **KINDS[kind]})


@pytest.fixture
def torchvision_detector() -> Callable[[ModelConfig], nn.Module]:
    return build_torchvision_detector

"""SoCo-C4, any ResNet, and the reduced rows of Table 4: what exists, and what is pooled from where."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torchvision.models import get_model
from torchvision.ops import roi_align

from soco_core.config import ModelConfig, ResNetName
from soco_core.models.backbone import STRIDES, FeatureExtractor
from soco_core.models.soco import OnlineNetwork, SoCo, ViewBatch

Model = Callable[..., ModelConfig]
Pair = Callable[..., SoCo]
Views = Callable[..., list[ViewBatch]]

PLAIN = {"use_fpn": False, "use_head": False, "scale_aware": False}


def resnet_keys(name: str) -> set[str]:
    return {f"encoder.{key}" for key in get_model(name).state_dict() if not key.startswith("fc.")}


def parts(network: torch.nn.Module, *names: str) -> set[str]:
    return {key for key in network.state_dict() if key.split(".")[0] in names}


@torch.no_grad()
def by_hand(network: OnlineNetwork, view: ViewBatch, levels: torch.Tensor, size: int = 7) -> torch.Tensor:
    """RoIAlign of each box, alone, on map `levels` (0 for stride 4) of the full pyramid or of the backbone."""
    maps = network.encoder(view.images)
    if network.neck is not None:
        full = FeatureExtractor(network.config.model_copy(update={"scale_aware": True})).eval()
        full.load_state_dict(network.state_dict(), strict=False)
        maps = full.neck(maps)
    pooled = []
    for image in range(len(view.boxes)):
        for box, level in zip(view.boxes[image], levels[image].tolist(), strict=True):
            features = maps[level][image : image + 1]
            pooled.append(roi_align(features, [box[None]], size, 1 / STRIDES[level], 0, True)[0])
    return torch.stack(pooled)


def test_c4_holds_a_resnet_and_no_more(small_model: Model) -> None:
    network = SoCo(small_model(architecture="c4", roi_size=14)).online
    assert parts(network, "encoder", "neck", "head") == resnet_keys("resnet18")
    assert network.projector[0].in_features == 512
    full = OnlineNetwork(small_model(backbone="resnet50", architecture="c4", roi_size=14))
    assert full.projector[0].in_features == 2048


def test_c4_pools_from_c4_and_has_the_fifth_block_as_its_head(
    pair: Pair, small_model: Model, make_views: Views
) -> None:
    network = pair(small_model(architecture="c4", roi_size=14)).online.eval()
    view = make_views()[0]
    (regions,) = network.pool(view)
    assert regions.shape == (4, 256, 14, 14)
    torch.testing.assert_close(regions, by_hand(network, view, torch.full((2, 2), 2), 14))
    fifth = get_model("resnet18").layer4.eval()
    fifth.load_state_dict(network.encoder.layer4.state_dict())
    with torch.no_grad():
        assert fifth(regions).shape == (4, 512, 7, 7)
        torch.testing.assert_close(network.represent(regions), fifth(regions).mean((2, 3)))


@pytest.mark.parametrize("name", get_args(ResNetName))
def test_any_torchvision_resnet_is_a_backbone(name: str) -> None:
    with torch.device("meta"):
        for fields in ({}, {"architecture": "c4"}, PLAIN):
            network = SoCo(ModelConfig.model_validate({"backbone": name, **fields}))
            assert parts(network.online, "encoder") == resnet_keys(name)


@pytest.mark.parametrize(("name", "blocks", "last"), [("resnet18", 8, "bn2"), ("resnet50", 16, "bn3")])
@pytest.mark.parametrize("fields", [{}, {"architecture": "c4", "roi_size": 14}], ids=["fpn", "c4"])
def test_a_residual_block_starts_as_the_identity(
    name: str, blocks: int, last: str, fields: dict[str, object], small_model: Model
) -> None:
    """The scale of its last batch norm is zero, in both networks, and of no other."""
    networks = SoCo(small_model(backbone=name, **fields))
    zero = {key for key, value in networks.named_parameters() if key.endswith("weight") and not value.any()}
    assert len(zero) == 2 * blocks
    assert {key.rsplit(".", 2)[1] for key in zero} == {last}


def test_the_stride_is_in_the_middle_convolution() -> None:
    with torch.device("meta"):
        encoder = OnlineNetwork(ModelConfig()).encoder
    for layer in (encoder.layer2, encoder.layer3, encoder.layer4):
        convolutions = (layer[0].conv1, layer[0].conv2, layer[0].conv3)
        assert [conv.stride for conv in convolutions] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2"])
def test_a_wider_backbone_trains(name: str, small_model: Model, make_views: Views) -> None:
    networks = SoCo(small_model(backbone=name))
    online, _ = networks(make_views((64, 32)))
    sum(part.square().mean() for part in online).backward()
    assert all(parameter.grad is not None for parameter in networks.online.parameters())


@pytest.mark.parametrize(("level", "number"), [("C4", 2), ("C5", 3)])
def test_without_fpn_boxes_are_averaged_from_the_backbone(
    level: str, number: int, pair: Pair, small_model: Model, make_views: Views
) -> None:
    network = pair(small_model(backbone_level=level, **PLAIN)).online.eval()
    assert not parts(network, "neck", "head")
    unused = {key for key in resnet_keys("resnet18") if "layer4" in key} if level == "C4" else set()
    assert parts(network, "encoder") == resnet_keys("resnet18") - unused
    view = make_views()[0]
    (regions,) = network.pool(view)
    expected = by_hand(network, view, torch.full((2, 2), number))
    torch.testing.assert_close(regions, expected)
    torch.testing.assert_close(network.represent(regions), expected.mean((2, 3)))
    assert network.projector[0].in_features == {"C4": 256, "C5": 512}[level]


def test_the_whole_view_on_c5_is_the_resnets_average_pooling(pair: Pair, small_model: Model) -> None:
    """Table 4's first row is BYOL's: h is what a ResNet hands its classifier."""
    network = pair(small_model(**PLAIN)).online.eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([0.0, 0.0, 224.0, 224.0]).expand(2, 1, 4)
    resnet = get_model("resnet18").eval()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(
        {key.removeprefix("encoder."): network.state_dict()[key] for key in parts(network, "encoder")}
    )
    with torch.no_grad():
        (regions,) = network.pool(ViewBatch(images, boxes, torch.zeros(2, 1, dtype=torch.int64)))
        torch.testing.assert_close(network.represent(regions), resnet(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_head", [False, True])
@pytest.mark.parametrize(("level", "number"), [("P2", 0), ("P3", 1), ("P4", 2), ("P5", 3)])
def test_without_scale_aware_assignment_all_boxes_are_pooled_from_one_level(
    level: str, number: int, use_head: bool, pair: Pair, small_model: Model, make_views: Views
) -> None:
    network = pair(small_model(scale_aware=False, use_head=use_head, single_level=level)).online.eval()
    assert {key.split(".")[2] for key in parts(network, "neck") if "fpn_convs" in key} == {str(number)}
    laterals = {key.split(".")[2] for key in parts(network, "neck") if "lateral_convs" in key}
    assert laterals == {str(i) for i in range(number, 4)}
    view = make_views()[0]
    (regions,) = network.pool(view)
    expected = by_hand(network, view, torch.full((2, 2), number))
    torch.testing.assert_close(regions, expected, atol=1e-5, rtol=1e-5)
    h = network.represent(regions)
    if use_head:
        torch.testing.assert_close(h, network.head(expected), atol=1e-5, rtol=1e-5)
        assert h.shape == (4, 24)
    else:
        assert not parts(network, "head")
        torch.testing.assert_close(h, expected.mean((2, 3)), atol=1e-5, rtol=1e-5)
        assert h.shape == (4, 16)


@pytest.mark.parametrize("use_head", [False, True])
def test_with_it_each_box_has_the_level_of_its_size(
    use_head: bool, pair: Pair, small_model: Model, make_views: Views
) -> None:
    network = pair(small_model(use_head=use_head)).online.eval()
    view = make_views(boxes=6)[0]
    sides = ((view.boxes[..., 2] - view.boxes[..., 0]) * (view.boxes[..., 3] - view.boxes[..., 1])).sqrt()
    levels = sum((sides > limit).long() for limit in network.config.level_limits)
    assert len(levels.unique()) == 4
    (regions,) = network.pool(view)
    torch.testing.assert_close(regions, by_hand(network, view, levels), atol=1e-5, rtol=1e-5)
    h = network.represent(regions)
    if not use_head:
        assert not parts(network, "head")
        torch.testing.assert_close(h, regions.mean((2, 3)), atol=1e-5, rtol=1e-5)
    assert h.shape == (12, 24 if use_head else 16)


def test_the_head_alone_can_be_left_out_and_all_that_is_left_trains(small_model: Model, make_views: Views) -> None:
    networks = SoCo(small_model(use_head=False))
    online, _ = networks(make_views((64, 64, 32), boxes=6))
    sum(part.square().mean() for part in online).backward()
    assert all(parameter.grad is not None for parameter in networks.online.parameters())

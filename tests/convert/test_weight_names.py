from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.detection import retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from soco_core.artifacts.weight_names import MODULES, TARGETS, Target, to_canonical, to_target
from soco_core.config import ModelConfig
from soco_core.convert.export import split_pretrained

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]
MODELS = [
    ModelConfig(backbone="resnet18", fpn_channels=16, head_convs=1, head_fc_size=32),
    ModelConfig(backbone="resnet50", fpn_channels=16, head_convs=4, head_fc_size=32),
]
C4_MODELS = [
    ModelConfig(architecture="c4", backbone="resnet18", roi_size=14),
    ModelConfig(architecture="c4", roi_size=14),
]


@pytest.mark.parametrize("model", MODELS + C4_MODELS, ids=lambda model: f"{model.architecture}-{model.backbone}")
@pytest.mark.parametrize("target", TARGETS)
def test_a_round_trip_gives_the_same_tensors(model: ModelConfig, target: Target, network: Network) -> None:
    canonical, _ = split_pretrained(network(model), "test")
    architecture = model.architecture
    there = {to_target(key, target, model.head_convs, architecture): value for key, value in canonical.items()}
    assert None not in there
    assert len(there) == len(canonical)
    back = {to_canonical(key, target, model.head_convs, architecture): there[key] for key in there if key}
    assert back.keys() == canonical.keys()
    assert all(torch.equal(back[key], value) for key, value in canonical.items())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.backbone)
def test_torchvision_names_and_shapes_are_those_of_a_real_torchvision_detector(
    model: ModelConfig, network: Network, torchvision_detector: Callable[[ModelConfig], torch.nn.Module]
) -> None:
    canonical, _ = split_pretrained(network(model), "test")
    ours = {to_target(key, "torchvision", model.head_convs): value.shape for key, value in canonical.items()}
    assert ours == {key: value.shape for key, value in torchvision_detector(model).state_dict().items()}


def test_the_papers_model_has_392_keys(network: Network) -> None:
    # 53 convolutions and 53 batch norms of 5 tensors each in ResNet-50, 8 and 8 in the FPN,
    # 4 and 4 in the box head, and a linear layer: 65 * 6 + 2.
    canonical, _ = split_pretrained(network(MODELS[1]), "test")
    assert len(canonical) == 392
    # SoCo-C4: the ResNet alone.
    canonical, _ = split_pretrained(network(C4_MODELS[1]), "test")
    assert len(canonical) == 53 * 6 == 318


@pytest.mark.parametrize(
    ("canonical", "torchvision", "detectron2"),
    [
        ("encoder.conv1.weight", "backbone.body.conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
        ("encoder.bn1.running_var", "backbone.body.bn1.running_var", "backbone.bottom_up.stem.conv1.norm.running_var"),
        (
            "encoder.layer1.0.conv3.weight",
            "backbone.body.layer1.0.conv3.weight",
            "backbone.bottom_up.res2.0.conv3.weight",
        ),
        ("encoder.layer3.5.bn2.bias", "backbone.body.layer3.5.bn2.bias", "backbone.bottom_up.res4.5.conv2.norm.bias"),
        (
            "encoder.layer4.0.downsample.0.weight",
            "backbone.body.layer4.0.downsample.0.weight",
            "backbone.bottom_up.res5.0.shortcut.weight",
        ),
        (
            "encoder.layer2.0.downsample.1.running_mean",
            "backbone.body.layer2.0.downsample.1.running_mean",
            "backbone.bottom_up.res3.0.shortcut.norm.running_mean",
        ),
        (
            "encoder.layer3.22.conv1.weight",
            "backbone.body.layer3.22.conv1.weight",
            "backbone.bottom_up.res4.22.conv1.weight",
        ),
        ("neck.lateral_convs.0.conv.weight", "backbone.fpn.inner_blocks.0.0.weight", "backbone.fpn_lateral2.weight"),
        ("neck.lateral_convs.3.bn.weight", "backbone.fpn.inner_blocks.3.1.weight", "backbone.fpn_lateral5.norm.weight"),
        ("neck.fpn_convs.0.conv.weight", "backbone.fpn.layer_blocks.0.0.weight", "backbone.fpn_output2.weight"),
        ("neck.fpn_convs.2.bn.bias", "backbone.fpn.layer_blocks.2.1.bias", "backbone.fpn_output4.norm.bias"),
        ("head.conv1.weight", "roi_heads.box_head.0.0.weight", "roi_heads.box_head.conv1.weight"),
        (
            "head.bn4.num_batches_tracked",
            "roi_heads.box_head.3.1.num_batches_tracked",
            "roi_heads.box_head.conv4.norm.num_batches_tracked",
        ),
        ("head.fc1.weight", "roi_heads.box_head.5.weight", "roi_heads.box_head.fc1.weight"),
    ],
)
def test_names_by_hand(canonical: str, torchvision: str, detectron2: str) -> None:
    assert to_target(canonical, "torchvision", 4) == torchvision
    assert to_target(canonical, "detectron2", 4) == detectron2
    assert to_canonical(torchvision, "torchvision", 4) == canonical
    assert to_canonical(detectron2, "detectron2", 4) == canonical


def test_the_linear_layer_follows_the_convolutions() -> None:
    assert to_target("head.fc1.bias", "torchvision", 1) == "roi_heads.box_head.2.bias"
    assert to_canonical("roi_heads.box_head.5.bias", "torchvision", 1) is None


@pytest.mark.parametrize(
    "key", ["encoder.fc.weight", "neck.extra.conv.weight", "head.fc2.weight", "encoderxconv1.weight"]
)
def test_an_unknown_key_has_no_name(key: str) -> None:
    assert to_target(key, "torchvision", 4) is None


@pytest.mark.parametrize(
    ("canonical", "detectron2"),
    [
        ("encoder.conv1.weight", "backbone.stem.conv1.weight"),
        ("encoder.bn1.running_var", "backbone.stem.conv1.norm.running_var"),
        ("encoder.layer1.0.conv3.weight", "backbone.res2.0.conv3.weight"),
        ("encoder.layer2.3.bn2.bias", "backbone.res3.3.conv2.norm.bias"),
        ("encoder.layer3.0.downsample.0.weight", "backbone.res4.0.shortcut.weight"),
        ("encoder.layer4.0.downsample.1.running_mean", "roi_heads.res5.0.shortcut.norm.running_mean"),
        ("encoder.layer4.2.conv1.weight", "roi_heads.res5.2.conv1.weight"),
        ("encoder.layer4.1.bn3.weight", "roi_heads.res5.1.conv3.norm.weight"),
    ],
)
def test_names_of_a_c4_detector_by_hand(canonical: str, detectron2: str) -> None:
    assert to_target(canonical, "detectron2", 4, "c4") == detectron2
    assert to_canonical(detectron2, "detectron2", 4, "c4") == canonical
    assert to_target(canonical, "torchvision", 4, "c4") == canonical.replace("encoder.", "backbone.body.")


@pytest.mark.parametrize(
    "key", ["backbone.res5.0.conv1.weight", "roi_heads.res4.0.conv1.weight", "roi_heads.res5.norm.weight"]
)
def test_a_c4_detector_has_its_fifth_block_in_the_heads_only(key: str) -> None:
    assert to_canonical(key, "detectron2", 4, "c4") is None


def test_both_architectures_agree_on_torchvisions_names_of_the_resnet() -> None:
    assert {row.canonical for row in MODULES["c4"]}.isdisjoint({"head.fc1", "neck.lateral_convs.0.conv"})
    for key in ("encoder.bn1.bias", "encoder.layer4.0.conv2.weight", "encoder.layer1.2.downsample.1.weight"):
        assert to_target(key, "torchvision", 4, "c4") == to_target(key, "torchvision", 4, "fpn")


@pytest.mark.parametrize(
    ("canonical", "mmdetection"),
    [
        ("encoder.conv1.weight", "backbone.conv1.weight"),
        ("encoder.bn1.running_var", "backbone.bn1.running_var"),
        ("encoder.layer3.5.bn2.bias", "backbone.layer3.5.bn2.bias"),
        ("encoder.layer4.0.downsample.0.weight", "backbone.layer4.0.downsample.0.weight"),
        ("neck.lateral_convs.0.conv.weight", "neck.lateral_convs.0.conv.weight"),
        ("neck.fpn_convs.3.bn.bias", "neck.fpn_convs.3.bn.bias"),
        ("head.conv1.weight", "roi_head.bbox_head.shared_convs.0.conv.weight"),
        ("head.bn4.running_mean", "roi_head.bbox_head.shared_convs.3.bn.running_mean"),
        ("head.fc1.weight", "roi_head.bbox_head.shared_fcs.0.weight"),
    ],
)
def test_names_of_mmdetection_by_hand(canonical: str, mmdetection: str) -> None:
    assert to_target(canonical, "mmdetection", 4) == mmdetection
    assert to_canonical(mmdetection, "mmdetection", 4) == canonical


def test_mmdetections_c4_detector_has_its_fifth_block_in_the_shared_head() -> None:
    name = to_target("encoder.layer4.2.bn3.weight", "mmdetection", 4, "c4")
    assert name == "roi_head.shared_head.layer4.2.bn3.weight"
    assert to_canonical("backbone.layer4.2.bn3.weight", "mmdetection", 4, "c4") is None


@pytest.mark.parametrize(
    ("canonical", "torchvision", "detectron2", "mmdetection"),
    [
        (
            "neck.lateral_convs.1.conv.weight",
            "backbone.fpn.inner_blocks.0.0.weight",
            "backbone.fpn_lateral3.weight",
            "neck.lateral_convs.0.conv.weight",
        ),
        (
            "neck.fpn_convs.3.bn.bias",
            "backbone.fpn.layer_blocks.2.1.bias",
            "backbone.fpn_output5.norm.bias",
            "neck.fpn_convs.2.bn.bias",
        ),
        (
            "encoder.layer1.0.conv1.weight",
            "backbone.body.layer1.0.conv1.weight",
            "backbone.bottom_up.res2.0.conv1.weight",
            "backbone.layer1.0.conv1.weight",
        ),
    ],
)
def test_the_pyramid_of_a_dense_detector_counts_from_c3(
    canonical: str, torchvision: str, detectron2: str, mmdetection: str
) -> None:
    for target, name in zip(TARGETS, (torchvision, detectron2, mmdetection), strict=True):
        assert to_target(canonical, target, 4, "dense") == name
        assert to_canonical(name, target, 4, "dense") == canonical


@pytest.mark.parametrize("key", ["neck.lateral_convs.0.conv.weight", "neck.fpn_convs.0.bn.bias", "head.fc1.bias"])
def test_a_dense_detector_has_neither_p2_nor_a_box_head(key: str) -> None:
    assert {to_target(key, target, 4, "dense") for target in TARGETS} == {None}


@pytest.mark.parametrize("key", ["neck.fpn_convs.3.conv.weight", "neck.fpn_convs.4.conv.weight"])
def test_p6_and_p7_of_a_dense_detector_are_no_levels_of_ours(key: str) -> None:
    assert to_canonical(key, "mmdetection", 4, "dense") is None


def test_dense_names_and_shapes_are_those_of_torchvisions_retinanet(network: Network) -> None:
    with torch.device("meta"):
        detector = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None)
        layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
        top = LastLevelP6P7(16, 16)
        detector.backbone = BackboneWithFPN(resnet50(), layers, [512, 1024, 2048], 16, top, torch.nn.BatchNorm2d)
    canonical, _ = split_pretrained(network(MODELS[1]), "test")
    names = {to_target(key, "torchvision", 4, "dense"): value.shape for key, value in canonical.items()}
    names.pop(None)
    state = detector.state_dict()
    assert names == {
        key: value.shape
        for key, value in state.items()
        if key.startswith("backbone.") and not key.startswith("backbone.fpn.extra_blocks.")
    }

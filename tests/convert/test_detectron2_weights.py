from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from soco_core.artifacts.weight_names import Detector
from soco_core.config import ModelConfig
from soco_core.convert.export import Export, export, split_pretrained
from soco_core.convert.files import write_export
from soco_core.models.soco import OnlineNetwork, ViewBatch

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]

RESNETS = {
    "resnet18": (18, 1, 64),
    "resnet50": (50, 1, 64),
    "resnext50_32x4d": (50, 32, 4),
    "wide_resnet50_2": (50, 1, 128),
}
"""detectron2's DEPTH, NUM_GROUPS and WIDTH_PER_GROUP."""

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")


def resnet(model: ModelConfig) -> Any:
    """The settings of the backbone, with BN; without detectron2's model zoo, which needs pkg_resources."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    depth, groups, width = RESNETS[model.backbone]
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NUM_GROUPS = groups
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.NORM = "BN"
    return cfg


def retinanet(model: ModelConfig) -> torch.nn.Module:
    """Build detectron2's own RetinaNet, whose pyramid begins at P3."""
    from detectron2.modeling import build_model

    cfg = resnet(model)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = model.fpn_channels
    cfg.MODEL.FPN.NORM = "BN"
    return build_model(cfg)


def mask_rcnn(model: ModelConfig) -> torch.nn.Module:
    """Build detectron2's own Mask R-CNN: FPN and a 4conv1fc head, or C4."""
    from detectron2.modeling import build_model

    cfg = resnet(model)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.MASK_ON = True
    if model.architecture == "c4":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
        cfg.MODEL.RPN.IN_FEATURES = ["res4"]
        cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = model.roi_size
        cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
        return build_model(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = model.fpn_channels
    cfg.MODEL.FPN.NORM = "BN"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = model.head_convs
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = model.fpn_channels
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = model.head_fc_size
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_BOX_HEAD.NORM = "BN"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    return build_model(cfg)


def load(
    model: ModelConfig, tensors: dict[str, torch.Tensor], folder: Path, kind: Detector | None = None
) -> torch.nn.Module:
    """A detectron2 detector that its own checkpointer has loaded the export into; each key is accounted for."""
    from detectron2.checkpoint import DetectionCheckpointer

    canonical, left_out = split_pretrained(tensors, "test")
    exported, coverage = export(canonical, Export("detectron2", kind or model.architecture), model, left_out)
    torch.save({"model": exported}, folder / "detectron2.pth")

    detector = retinanet(model) if kind == "dense" else mask_rcnn(model)
    fresh = [pattern.removesuffix("*") for pattern in coverage.newly_initialised]
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    DetectionCheckpointer(detector).load(str(folder / "detectron2.pth"))

    for key, value in detector.state_dict().items():
        if any(key.startswith(prefix) for prefix in fresh):
            assert torch.equal(value, before[key]), f"{key} was said to start from scratch"
        elif key in exported:
            assert torch.equal(value, exported[key]), f"{key} was not loaded"
        else:
            # Not parameters: cell anchors and pixel statistics.
            others = ("proposal_generator.anchor_generator.", "anchor_generator.", "pixel_")
            assert key.startswith(others), f"{key} has no weight"
    assert exported.keys() <= before.keys()
    for prefix in fresh:
        assert any(key.startswith(prefix) for key in before), f"detectron2 has no {prefix}*"
    return detector


@pytest.mark.parametrize(
    ("backbone", "architecture"),
    [
        ("resnet18", "fpn"),
        ("resnet50", "fpn"),
        ("resnext50_32x4d", "fpn"),
        ("wide_resnet50_2", "fpn"),
        ("resnet50", "c4"),  # its C4 head knows blocks of three convolutions only, so no ResNet-18
        ("resnext50_32x4d", "c4"),
    ],
)
def test_detectron2s_checkpointer_finds_every_key(
    backbone: str, architecture: str, network: Network, tmp_path: Path
) -> None:
    sizes = {"fpn_channels": 32, "head_fc_size": 64, "roi_size": 14 if architecture == "c4" else 7}
    model = ModelConfig.model_validate({"backbone": backbone, "architecture": architecture, **sizes})
    detector = load(model, network(model), tmp_path)
    pretrained = ("backbone.", "roi_heads.res5." if architecture == "c4" else "roi_heads.box_head.")
    expected = {key for key in detector.state_dict() if key.startswith(pretrained)}
    assert len(expected) == len(split_pretrained(network(model), "test")[0])


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_dense_detector_has_all_but_p2_and_the_box_head(backbone: str, network: Network, tmp_path: Path) -> None:
    model = ModelConfig.model_validate({"backbone": backbone, "fpn_channels": 32, "head_fc_size": 64})
    tensors = network(model)
    state = load(model, tensors, tmp_path, "dense").state_dict()
    for canonical, name in (
        ("neck.lateral_convs.1.conv", "fpn_lateral3"),
        ("neck.lateral_convs.3.bn", "fpn_lateral5.norm"),
        ("neck.fpn_convs.1.bn", "fpn_output3.norm"),
        ("neck.fpn_convs.3.conv", "fpn_output5"),
        ("encoder.layer4.0.downsample.1", "bottom_up.res5.0.shortcut.norm"),
    ):
        assert torch.equal(state[f"backbone.{name}.weight"], tensors[f"{canonical}.weight"])
    pretrained = {key for key in state if key.startswith(("backbone.bottom_up.", "backbone.fpn_"))}
    there = [key for key in split_pretrained(tensors, "test")[0] if not key.startswith("head.")]
    assert len(pretrained) == len([key for key in there if not key.startswith("neck.") or ".0." not in key])


@pytest.mark.parametrize("architecture", ["fpn", "c4"])
def test_the_pickle_of_the_authors_workflow_gives_the_same(
    architecture: Literal["fpn", "c4"], network: Network, tmp_path: Path
) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    sizes = {"fpn_channels": 32, "head_fc_size": 64, "roi_size": 14 if architecture == "c4" else 7}
    model = ModelConfig.model_validate({"architecture": architecture, **sizes})
    each = Export("detectron2", architecture)
    tensors, _ = export(split_pretrained(network(model), "test")[0], each, model, {})
    write_export(tmp_path, each, tensors)
    detector = mask_rcnn(model)
    DetectionCheckpointer(detector).load(str(tmp_path / "detectron2.pkl"))
    state = detector.state_dict()
    assert all(torch.equal(state[key], value) for key, value in tensors.items())


# No C4: detectron2 has no such head for a ResNet-18.
@pytest.mark.parametrize("kind", ["fpn", "one level", "without head", "without FPN", "without FPN, C4"], indirect=True)
def test_a_reduced_rows_weights_load_and_the_rest_stays_fresh(
    network: Network, kind: str, model_of: Callable[[str], ModelConfig], tmp_path: Path
) -> None:
    load(model_of(kind), network(model_of(kind)), tmp_path)
    load(model_of(kind), network(model_of(kind)), tmp_path, "dense")


def test_the_c4_detector_computes_what_was_pretrained(tmp_path: Path) -> None:
    from detectron2.structures import Boxes

    torch.manual_seed(0)
    model = ModelConfig(architecture="c4", roi_size=14, hidden_size=16, embedding_size=8)
    ours = OnlineNetwork(model)
    for parameter in ours.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter.data, 0.5, 1.0)
    theirs = load(model, ours.state_dict(), tmp_path).eval()
    ours.eval()
    images = torch.randn(2, 3, 96, 96)
    boxes = torch.tensor([[[4.0, 8.0, 60.0, 70.0]], [[0.0, 0.0, 95.0, 95.0]]])
    with torch.no_grad():
        (regions,) = ours.pool(ViewBatch(images, boxes, torch.zeros(2, 1, dtype=torch.int64)))
        features = theirs.backbone(images)
        pooled = theirs.roi_heads.pooler([features["res4"]], [Boxes(box) for box in boxes])
        torch.testing.assert_close(pooled, regions, rtol=0, atol=1e-4)
        h = theirs.roi_heads.res5(pooled).mean((2, 3))
        torch.testing.assert_close(h, ours.represent(regions), rtol=0, atol=1e-4)

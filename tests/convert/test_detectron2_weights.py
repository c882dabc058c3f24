from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from soco_core.config import ModelConfig
from soco_core.convert.export import export, split_pretrained

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")


def mask_rcnn(model: ModelConfig) -> torch.nn.Module:
    """Build detectron2's own Mask R-CNN FPN with BN and a 4conv1fc head (no model zoo: it needs pkg_resources)."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = int(model.backbone.removeprefix("resnet"))
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if cfg.MODEL.RESNETS.DEPTH < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.NORM = "BN"
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


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(backbone="resnet18", fpn_channels=16, head_convs=2, head_fc_size=32),
        ModelConfig(backbone="resnet50", fpn_channels=32, head_convs=4, head_fc_size=64),
    ],
    ids=lambda model: model.backbone,
)
def test_detectron2s_checkpointer_finds_every_key(model: ModelConfig, network: Network, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    canonical, left_out = split_pretrained(network(model), "test")
    exported, coverage = export(canonical, "detectron2", left_out)
    torch.save({"model": exported}, tmp_path / "detectron2.pth")

    detector = mask_rcnn(model)
    fresh = [pattern.removesuffix("*") for pattern in coverage.newly_initialised]
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    DetectionCheckpointer(detector).load(str(tmp_path / "detectron2.pth"))

    for key, value in detector.state_dict().items():
        if any(key.startswith(prefix) for prefix in fresh):
            assert torch.equal(value, before[key]), f"{key} was said to start from scratch"
        elif key in exported:
            assert torch.equal(value, exported[key]), f"{key} was not loaded"
        else:
            # Not parameters: cell anchors and pixel statistics.
            assert key.startswith(("proposal_generator.anchor_generator.", "pixel_")), f"{key} has no weight"
    assert exported.keys() <= before.keys()
    assert {key for key in before if key.startswith(("backbone.", "roi_heads.box_head."))} == exported.keys()
    for prefix in fresh:
        assert any(key.startswith(prefix) for key in before), f"detectron2 has no {prefix}*"

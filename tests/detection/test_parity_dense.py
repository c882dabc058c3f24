"""RetinaNet and FCOS against detectron2's: features and detections, and losses up to its averaged normaliser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from soco_core.config import Recipe
from soco_core.detection import fcos as fcos_module
from soco_core.detection.model import build_detector
from soco_core.recipes import parse_recipe
from tests.detection.parity import as_inputs, fcos, give_weights, objects, pictures, randomise, retinanet

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")

CLASSES = 3
SIZES = """
model: {backbone: resnet18, fpn_channels: 64}
finetune: {anchor_sizes: [16, 32, 64, 96, 128], detections_per_image: 40, score_threshold: 0.02}
"""
LOSSES = {
    "retinanet": {"loss_classifier": "loss_cls", "loss_box_reg": "loss_box_reg"},
    "fcos": {
        "loss_classifier": "loss_fcos_cls",
        "loss_box_reg": "loss_fcos_loc",
        "loss_centerness": "loss_fcos_ctr",
    },
}
Pair = tuple[Recipe, nn.Module, nn.Module]


@pytest.fixture(scope="module", params=["retinanet", "fcos"])
def pair(request: pytest.FixtureRequest) -> Pair:
    recipe = parse_recipe(SIZES, [f"finetune.detector={request.param}", "finetune.fcos_variant=detectron2"])
    torch.manual_seed(0)
    ours = build_detector(recipe, CLASSES)
    theirs = retinanet(recipe, CLASSES) if request.param == "retinanet" else fcos(recipe, CLASSES)
    randomise(ours)
    give_weights(ours, theirs, recipe)
    return recipe, ours, theirs


def test_features_and_detections_are_detectron2s(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, ours, theirs = pair
    # Without NMS: detectron2 clips boxes to the image behind it, MMDetection and ours before.
    monkeypatch.setattr(fcos_module, "NMS_THRESHOLD", 1.0)
    monkeypatch.setattr(ours, "nms_thresh", 1.0, raising=False)
    monkeypatch.setattr(theirs, "test_nms_thresh", 1.0)
    ours.eval()
    theirs.eval()
    inputs = as_inputs(pictures(), objects())
    with torch.no_grad():
        batch, _ = ours.transform(pictures())
        images = theirs.preprocess_image(inputs)
        features, expected = ours.backbone(batch.tensors), theirs.backbone(images.tensor)
        assert len(features) == 5
        for mine, level in zip(features.values(), ("p3", "p4", "p5", "p6", "p7"), strict=True):
            assert expected[level].std() > 0.1
            torch.testing.assert_close(mine, expected[level], rtol=0, atol=1e-5)
        found, reference = ours(pictures()), theirs(inputs)
    for mine, result in zip(found, reference, strict=True):
        other = result["instances"]
        assert len(mine["boxes"]) == recipe.finetune.detections_per_image
        # It then removes boxes without an area.
        kept = (mine["boxes"][:, 2:] > mine["boxes"][:, :2]).all(1)
        assert kept.sum() > 10
        torch.testing.assert_close(mine["boxes"][kept], other.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(mine["scores"][kept], other.scores, rtol=0, atol=1e-5)
        assert torch.equal(mine["labels"][kept], other.pred_classes + 1)


def test_losses_are_detectron2s_up_to_its_normaliser(pair: Pair) -> None:
    from detectron2.utils.events import EventStorage

    recipe, ours, theirs = pair
    ours.train()
    theirs.train()
    with torch.no_grad(), EventStorage() as storage:
        expected = theirs(as_inputs(pictures(), objects()))
        positives = storage.latest()["num_pos_anchors"][0] * 2
        found = ours(pictures(), objects())
    names = LOSSES[recipe.finetune.detector]
    assert len(found) == len(expected) == len(names)
    assert positives > 5
    for name, value in found.items():
        assert value > 1e-2
        torch.testing.assert_close(
            value * positives / theirs.loss_normalizer, expected[names[name]], rtol=1e-5, atol=1e-5
        )

"""The two-stage detectors against detectron2's: the same weights, images and sampled indices give the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from soco_core.config import Recipe
from soco_core.detection.model import build_detector
from soco_core.recipes import parse_recipe
from tests.detection.parity import as_inputs, give_weights, objects, pictures, randomise, two_stage

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")

CLASSES = 3
SIZES = """
model: {fpn_channels: 16, head_convs: 2, head_fc_size: 24, roi_size: 7}
finetune:
  anchor_sizes: [16, 32, 64, 96, 128]
  rpn_batch_per_image: 64
  anchors_train: 400
  anchors_test: 300
  proposals_train: 120
  proposals_test: 30
  roi_batch_per_image: 16
  c4_roi_size: 8
  mask_convs: 2
  mask_channels: 12
  score_threshold: 0.05
  detections_per_image: 20
"""
LOSSES = {
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_loc",
}


@pytest.fixture(scope="module", params=["mask-rcnn-fpn", "mask-rcnn-c4", "faster-rcnn-c4"])
def pair(request: pytest.FixtureRequest) -> tuple[Recipe, nn.Module, nn.Module]:
    # detectron2's C4 head knows blocks of three convolutions only.
    backbone = "resnet18" if request.param == "mask-rcnn-fpn" else "resnet50"
    recipe = parse_recipe(SIZES, [f"finetune.detector={request.param}", f"model.backbone={backbone}"])
    torch.manual_seed(0)
    ours, theirs = build_detector(recipe, CLASSES), two_stage(recipe, CLASSES)
    randomise(ours)
    give_weights(ours, theirs, recipe)
    return recipe, ours, theirs


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_features_proposals_and_detections_are_detectron2s(pair: tuple[Recipe, nn.Module, nn.Module]) -> None:
    recipe, ours, theirs = pair
    ours.eval()
    theirs.eval()
    inputs = as_inputs(pictures(), objects())
    with torch.no_grad():
        batch, _ = ours.transform(pictures())
        images = theirs.preprocess_image(inputs)
        close(batch.tensors, images.tensor, 1e-5)
        features, expected = ours.backbone(batch.tensors), theirs.backbone(images.tensor)
        for mine, other in zip(features.values(), expected.values(), strict=True):
            assert other.std() > 0.1
            close(mine, other, 1e-5)
        proposals, _ = ours.rpn(batch, features)
        wanted, _ = theirs.proposal_generator(images, expected)
        for mine, other in zip(proposals, wanted, strict=True):
            assert len(mine) == recipe.finetune.proposals_test
            close(mine, other.proposal_boxes.tensor, 1e-3)
        regions = ours.roi_heads.regions(features, proposals, batch.image_sizes)
        boxes = [item.proposal_boxes for item in wanted]
        if recipe.finetune.has_pyramid:
            pooled = theirs.roi_heads.box_pooler([expected[name] for name in ("p2", "p3", "p4", "p5")], boxes)
            close(regions, theirs.roi_heads.box_head(pooled), 1e-5)
        else:
            close(regions, theirs.roi_heads._shared_roi_transform([expected["res4"]], boxes), 1e-5)
        found, reference = ours(pictures()), theirs.inference(inputs, do_postprocess=False)
    for mine, other in zip(found, reference, strict=True):
        assert len(mine["boxes"]) == recipe.finetune.detections_per_image
        close(mine["boxes"], other.pred_boxes.tensor, 1e-3)
        close(mine["scores"], other.scores, 1e-5)
        assert torch.equal(mine["labels"], other.pred_classes + 1)
        assert ("masks" in mine) == recipe.finetune.has_masks
        if recipe.finetune.has_masks:
            assert other.pred_masks.std() > 0.01
            close(mine["masks"], other.pred_masks, 1e-5)


def test_training_losses_are_detectron2s(
    pair: tuple[Recipe, nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.utils.events import EventStorage

    recipe, ours, theirs = pair
    ours.train()
    theirs.train()
    # The streams of random numbers differ: both take the first that may be sampled.
    monkeypatch.setattr(torch, "randperm", lambda count, **keywords: torch.arange(count))
    with torch.no_grad(), EventStorage():
        expected = theirs(as_inputs(pictures(), objects()))
        found = ours(pictures(), objects())
    assert len(found) == len(expected) == (5 if recipe.finetune.has_masks else 4)
    for name, value in found.items():
        assert value > 1e-3
        close(value, expected[LOSSES[name]], 1e-5)
    for mine, other in zip(batch_norms(ours), batch_norms(theirs), strict=True):
        close(mine, other, 1e-5)


def batch_norms(model: nn.Module) -> list[torch.Tensor]:
    """The sorted sums of all running means: training moved them all alike."""
    means = [buffer.double().sum() for name, buffer in model.named_buffers() if name.endswith("running_mean")]
    return [torch.stack(means).sort().values]

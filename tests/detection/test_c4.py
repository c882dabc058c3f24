"""The C4 detectors, against the same numbers put together from the network's parts by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from soco_core.detection.c4 import C4RoIAlign
from soco_core.detection.layers import UnroundedAnchors
from soco_core.detection.model import build_detector
from soco_core.detection.roi_heads import mask_loss
from soco_core.recipes import parse_recipe

SMALL = """
model: {backbone: resnet18}
finetune:
  detector: mask-rcnn-c4
  anchor_sizes: [8, 16, 32, 64, 128]
  c4_roi_size: 6
  roi_batch_per_image: 12
  proposals_train: 50
  score_threshold: 0.0
  detections_per_image: 5
"""
CLASSES = 4


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_detector(parse_recipe(SMALL), CLASSES)


def targets() -> list[dict[str, Any]]:
    polygon = [np.array([5.0, 5.0, 40.0, 5.0, 40.0, 50.0, 5.0, 50.0])]
    return [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([2]), "masks": [polygon]}] * 2


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 90, generator=generator) * 255, torch.rand(3, 70, 64, generator=generator) * 255]


def test_regions_are_the_normed_fifth_block_of_what_is_pooled_from_c4(model: nn.Module) -> None:
    model.eval()
    norm = model.roi_heads.box_head.norm
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    body = model.backbone.body
    pictures = torch.randn(2, 3, 96, 80)
    boxes = [torch.tensor([[3.0, 5.0, 60.0, 41.0]]), torch.tensor([[1.0, 2.0, 70.0, 90.0], [9.0, 9.0, 30.0, 40.0]])]
    with torch.no_grad():
        stem = body.maxpool(body.relu(body.bn1(body.conv1(pictures))))
        c4 = body.layer3(body.layer2(body.layer1(stem)))
        assert c4.shape == (2, 256, 6, 5)
        pooled = roi_align(c4, boxes, (6, 6), 1 / 16, sampling_ratio=-1, aligned=True)
        wanted = norm(body.layer4(pooled))
        features = model.backbone(pictures)
        found = model.roi_heads.regions(features, boxes, [(96, 80)] * 2)
        assert found.shape == (3, 512, 3, 3)
        assert (found < 0).any()  # no ReLU follows the norm
        torch.testing.assert_close(found, wanted)
        logits, deltas = model.roi_heads.classify(found)
        predictor = model.roi_heads.box_predictor
        torch.testing.assert_close(logits, predictor.cls_score(wanted.mean((2, 3))))
        torch.testing.assert_close(deltas, predictor.bbox_pred(wanted.mean((2, 3))))
        mask = model.roi_heads.mask_predictor
        torch.testing.assert_close(
            model.roi_heads.masks(features, boxes, [(96, 80)] * 2),
            mask.mask_fcn_logits(torch.relu(mask.conv5_mask(wanted))),
        )


def test_pooling_of_a_ramp_gives_the_coordinates_of_the_cells() -> None:
    ramp = (torch.arange(16.0) * 16 + 8).expand(1, 1, 16, 16)
    found = C4RoIAlign(2)({"0": ramp}, [torch.tensor([[40.0, 40.0, 120.0, 120.0]])], [(256, 256)])
    torch.testing.assert_close(found[0, 0], torch.tensor([[60.0, 100.0], [60.0, 100.0]]))


def test_all_anchors_lie_on_one_map_of_stride_16(model: nn.Module) -> None:
    anchors = model.rpn.anchor_generator
    assert isinstance(anchors, UnroundedAnchors)
    grid = torch.zeros(1, 1, 3, 4)
    (found,) = anchors(ImageList(torch.zeros(1, 3, 48, 64), [(48, 64)]), [grid])
    assert found.shape == (3 * 4 * 15, 4)
    centres = (found[:, :2] + found[:, 2:]) / 2
    torch.testing.assert_close(centres[15:30], torch.tensor([[16.0, 0.0]]).expand(15, 2), atol=1e-5, rtol=0)
    areas = (found[:15, 2:] - found[:15, :2]).prod(1)
    torch.testing.assert_close(areas, torch.tensor([64.0, 256, 1024, 4096, 16384]).repeat_interleave(3))
    assert model.rpn.head.cls_logits.out_channels == 15


def test_masks_reuse_the_features_of_the_positives(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Tensor] = []
    shown: list[tuple[Tensor, Tensor]] = []
    heads = model.roi_heads
    heads.box_head.register_forward_hook(lambda module, inputs, output: passes.append(output))
    heads.mask_predictor.register_forward_hook(lambda module, inputs, output: shown.append((inputs[0], output)))
    chosen: list[Any] = []
    select = heads.select_training_samples
    monkeypatch.setattr(heads, "select_training_samples", lambda *each: chosen.append(select(*each)) or chosen[-1])
    losses = model(images(), targets())
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_mask", "loss_objectness", "loss_rpn_box_reg"]
    (regions,), ((features, logits),) = passes, shown
    boxes, _, labels, _ = chosen[0]
    every = torch.cat(labels)
    assert 2 <= (every > 0).sum() < len(every)
    assert torch.equal(features, regions[every > 0])
    polygons = [targets()[0]["masks"][0]] * len(features)
    wanted = mask_loss(logits, every[every > 0], torch.cat(boxes)[every > 0], polygons)
    torch.testing.assert_close(losses["loss_mask"], wanted)


@pytest.mark.parametrize("detector", ["mask-rcnn-c4", "faster-rcnn-c4"])
def test_both_modes_and_every_parameter_learns(detector: str) -> None:
    torch.manual_seed(0)
    model = build_detector(parse_recipe(SMALL, [f"finetune.detector={detector}"]), CLASSES)
    masks = detector == "mask-rcnn-c4"
    given = targets() if masks else [{key: item[key] for key in ("boxes", "labels")} for item in targets()]
    losses = model(images(), given)
    assert ("loss_mask" in losses) == masks
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        found = model(images())
    assert found[0]["boxes"].shape == (5, 4)
    assert found[0]["labels"].min() >= 1
    assert ("masks" in found[0]) == masks
    if masks:
        assert found[0]["masks"].shape == (5, 1, 6, 6)


def test_the_fifth_block_has_one_name_and_survives_a_copy(model: nn.Module) -> None:
    own = {key.removeprefix("roi_heads.box_head.") for key in model.state_dict() if "box_head" in key}
    assert own == {f"norm.{key}" for key in nn.BatchNorm2d(1).state_dict()}
    assert "backbone.body.layer4.0.conv1.weight" in model.state_dict()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 20 + 1
    assert not any("fc" in name.split(".") for name in model.state_dict())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.backbone.body.layer4.parameters():
            parameter.zero_()
    pooled = torch.randn(2, 256, 6, 6)
    with torch.no_grad():
        assert not other.eval().roi_heads.box_head(pooled).any()
        assert model.eval().roi_heads.box_head(pooled).any()


def test_the_head_calls_the_fifth_block_whose_norms_were_replaced(model: nn.Module) -> None:
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    (block,) = model.roi_heads.box_head._block
    assert block is model.backbone.body["layer4"]
    assert isinstance(block[0].bn1, nn.SyncBatchNorm)


def test_predictors_begin_as_in_detectron2(model: nn.Module) -> None:
    state = model.state_dict()
    assert state["roi_heads.box_predictor.cls_score.weight"].std().item() == pytest.approx(0.01, rel=0.1)
    assert state["roi_heads.box_predictor.bbox_pred.weight"].std().item() == pytest.approx(0.001, rel=0.1)
    assert state["roi_heads.mask_predictor.mask_fcn_logits.weight"].std().item() == pytest.approx(0.001, rel=0.1)
    assert list(state["roi_heads.mask_predictor.conv5_mask.weight"].shape) == [512, 256, 2, 2]


def test_a_batch_is_padded_to_its_largest_image_only(model: nn.Module) -> None:
    batch, _ = model.transform(images())
    assert batch.tensors.shape == (2, 3, 70, 90)

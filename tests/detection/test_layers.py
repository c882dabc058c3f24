"""What was changed in torchvision's parts, against numbers worked out by hand or torchvision's own operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_align

from soco_core.detection.layers import (
    AlignedRoIAlign,
    ProposalNetwork,
    UnroundedAnchors,
)
from soco_core.detection.model import build_detector
from soco_core.detection.roi_heads import box_loss, mask_loss
from soco_core.recipes import parse_recipe

SMALL = """
model: {backbone: resnet18, fpn_channels: 16, head_convs: 2, head_fc_size: 24, roi_size: 7}
finetune: {mask_convs: 2, mask_channels: 8, anchor_sizes: [8, 16, 32, 64, 128], canonical_box_size: 56}
"""


@pytest.mark.parametrize(
    ("side", "level"), [(30, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447.9, 2), (448, 3), (2000, 3)]
)
def test_levels_follow_equation_1_of_fpn(side, level):
    pool = AlignedRoIAlign(7, 224)
    assert pool.levels(torch.tensor([[10.0, 10.0, 10.0 + side, 10.0 + side]])).tolist() == [level]


def test_pooling_is_aligned_adaptive_and_from_each_box_s_level():
    torch.manual_seed(0)
    features = {str(index): torch.randn(2, 3, 64 >> index, 64 >> index) for index in range(4)}
    boxes = [torch.tensor([[3.0, 5.0, 50.0, 41.0]]), torch.tensor([[1.0, 2.0, 181.0, 200.0], [9.0, 9.0, 130.0, 140.0]])]
    found = AlignedRoIAlign(7, 224)(features, boxes, [(256, 256)] * 2)
    for row, (image, box, level) in enumerate(((0, boxes[0][0], 0), (1, boxes[1][0], 1), (1, boxes[1][1], 1))):
        region = torch.cat([torch.tensor([float(image)]), box])[None]
        wanted = roi_align(features[str(level)], region, (7, 7), 1 / (4 << level), -1, True)
        torch.testing.assert_close(found[row], wanted[0])


def test_pooling_of_a_ramp_gives_the_coordinates_of_the_cells():
    # On a feature whose value is its column's centre in input pixels, aligned pooling returns cell centres.
    ramp = (torch.arange(64.0) * 4 + 2).expand(1, 1, 64, 64)
    features = {str(index): ramp[..., : 64 >> index, : 64 >> index] for index in range(4)}
    found = AlignedRoIAlign(2, 224)(features, [torch.tensor([[20.0, 20.0, 60.0, 60.0]])], [(256, 256)])
    torch.testing.assert_close(found[0, 0], torch.tensor([[30.0, 50.0], [30.0, 50.0]]))


def test_anchors_are_unrounded_and_size_major():
    anchors = UnroundedAnchors([(32,), (64,), (128,), (256,), (512,)])
    root = math.sqrt(2)
    wanted = [
        [-16 * root, -8 * root, 16 * root, 8 * root],
        [-16, -16, 16, 16],
        [-8 * root, -16 * root, 8 * root, 16 * root],
    ]
    torch.testing.assert_close(anchors.cell_anchors[0], torch.tensor(wanted))
    both = anchors.generate_anchors((10, 20), (1.0, 2.0))
    assert both[:, 2].tolist() == pytest.approx([5.0, 2.5 * root, 10.0, 5 * root])


def test_anchors_keep_their_stride_where_the_last_level_is_rounded_up():
    # 800 pixels: P5 has 25 cells, P6 has 13; 800 // 13 is 61, but P6's stride is 64.
    grids = [torch.zeros(1, 1, side, side) for side in (200, 100, 50, 25, 13)]
    image = ImageList(torch.zeros(1, 3, 800, 800), [(800, 800)])
    anchors = UnroundedAnchors([(32,), (64,), (128,), (256,), (512,)])(image, grids)[0]
    last = anchors[-3 * 13 * 13 :]
    centres = (last[:, 0] + last[:, 2]) / 2
    assert sorted({round(value) for value in centres.tolist()}) == [64 * index for index in range(13)]


def test_rpn_losses_are_divided_by_what_could_be_sampled():
    rpn = ProposalNetwork(
        UnroundedAnchors([(32,)]),
        RPNHead(4, 3),
        0.7,
        0.3,
        batch_size_per_image=10,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 5, "testing": 5},
        post_nms_top_n={"training": 5, "testing": 5},
        nms_thresh=0.7,
    )
    labels = [torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, -1.0])]
    objectness = torch.tensor([2.0, -1.0, 9.0, 0.5, 0.0, 9.0])[:, None]
    deltas, targets = torch.zeros(6, 4), [torch.zeros(3, 4), torch.zeros(3, 4)]
    deltas[0], deltas[1] = torch.tensor([0.5, -2.0, 0.0, 1.0]), 100.0
    classification, regression = rpn.compute_loss(objectness, deltas, labels, targets)
    # Five anchors are labelled, 4 of them negative; 10 an image could be sampled.
    terms = [math.log1p(math.exp(-2.0)), math.log1p(math.exp(-1.0)), math.log1p(math.exp(0.5)), math.log(2.0)]
    assert classification.item() == pytest.approx(sum(terms) / 20)
    assert regression.item() == pytest.approx(3.5 / 20)


def test_the_box_loss_is_l1_of_the_own_class_over_all_boxes():
    predicted = torch.zeros(4, 3 * 4)
    predicted[0, 4:8] = torch.tensor([1.0, -1.0, 0.5, 0.0])  # class 1, its label
    predicted[0, 8:12] = 50.0  # class 2: not its label
    predicted[1, 8:12] = torch.tensor([0.0, 0.0, 0.0, 3.0])
    predicted[2] = 70.0  # background
    targets = torch.zeros(4, 4)
    targets[1, 3] = 1.0
    loss = box_loss(predicted, torch.tensor([1, 2, 0, 0]), targets)
    assert loss.item() == pytest.approx((2.5 + 2.0) / 4)
    assert box_loss(predicted, torch.zeros(4, dtype=torch.int64), targets).item() == 0.0


def test_the_mask_loss_looks_at_the_own_class_only():
    logits = torch.full((1, 3, 4, 4), 9.0)
    logits[0, 2] = torch.tensor([[-1.0, -1.0, 2.0, 2.0]] * 4)
    right_half = [np.array([14.0, 10.0, 18.0, 10.0, 18.0, 18.0, 14.0, 18.0])]
    loss = mask_loss(logits, torch.tensor([2]), torch.tensor([[10.0, 10.0, 18.0, 18.0]]), [right_half])
    assert loss.item() == pytest.approx((math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))) / 2, abs=1e-6)
    assert mask_loss(logits[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), []).item() == 0.0


def test_the_parameters_have_torchvision_s_names_and_norms_are_everywhere():
    model = build_detector(parse_recipe(SMALL), 5)
    state = model.state_dict()
    shapes = {
        "backbone.body.layer4.1.bn2.running_var": [512],
        "backbone.fpn.inner_blocks.0.0.weight": [16, 64, 1, 1],
        "backbone.fpn.inner_blocks.3.1.weight": [16],
        "backbone.fpn.layer_blocks.3.1.running_mean": [16],
        "roi_heads.box_head.0.0.weight": [16, 16, 3, 3],
        "roi_heads.box_head.1.1.bias": [16],
        "roi_heads.box_head.3.weight": [24, 16 * 49],
        "roi_heads.box_predictor.cls_score.weight": [6, 24],
        "roi_heads.mask_head.1.1.weight": [8],
        "rpn.head.conv.0.0.weight": [16, 16, 3, 3],
    }
    assert {key: list(state[key].shape) for key in shapes} == shapes
    assert "backbone.fpn.inner_blocks.0.0.bias" not in state
    assert "roi_heads.box_head.0.0.bias" not in state
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 20 + 8 + 2 + 2
    assert state["roi_heads.box_predictor.bbox_pred.weight"].std().item() == pytest.approx(0.001, rel=0.1)
    assert not state["roi_heads.box_head.3.bias"].any()


def test_a_forward_pass_in_both_modes():
    torch.manual_seed(0)
    model = build_detector(parse_recipe(SMALL), 5)
    images = [torch.rand(3, 64, 90) * 255, torch.rand(3, 70, 64) * 255]
    polygon = [np.array([5.0, 5.0, 40.0, 5.0, 40.0, 50.0, 5.0, 50.0])]
    full = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([2]), "masks": [polygon]}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": []}
    losses = model(images, [full, empty])
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_mask", "loss_objectness", "loss_rpn_box_reg"]
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.eval()
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = model(images)
    assert found[0]["masks"].shape[1:] == (1, 28, 28)
    assert found[0]["boxes"].shape == (len(found[0]["scores"]), 4)
    model.roi_heads.score_thresh = 1.0
    with torch.no_grad():
        assert len(model(images)[0]["boxes"]) == 0


def test_normalisation_uses_imagenet_s_statistics_in_0_to_255():
    model = build_detector(parse_recipe(SMALL), 1)
    white, _ = model.transform([torch.full((3, 40, 50), 255.0)])
    assert white.tensors.shape == (1, 3, 64, 64)
    wanted = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white.tensors[0, :, 0, 0], wanted)
    assert not F.relu(white.tensors[0, :, 40:]).any()

"""What RetinaNet and FCOS share, and RetinaNet: numbers by hand, and torchvision's stock model where it is the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from soco_core.detection.dense import dense_pyramid, focal_loss
from soco_core.detection.model import build_detector
from soco_core.detection.retinanet import BatchRetinaNetHead
from soco_core.detection.train import build_optimizer
from soco_core.recipes import parse_recipe

SMALL = """
model: {backbone: resnet18, fpn_channels: 64}
finetune: {anchor_sizes: [16, 32, 64, 96, 128], fcos_limits: [16, 32, 64, 96]}
"""
CLASSES = 3


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 160, 190, generator=generator) * 255, torch.rand(3, 170, 128, generator=generator) * 255]


def targets() -> list[dict[str, Tensor]]:
    boxes = [[6.0, 7.0, 36.0, 30.0], [50.0, 40.0, 120.0, 110.0], [1.0, 1.0, 126.0, 159.0], [20.0, 60.0, 34.0, 80.0]]
    one = {"boxes": torch.tensor([*boxes, [100.0, 20.0, 112.0, 30.0]]), "labels": torch.tensor([1, 2, 3, 1, 2])}
    return [one, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]


@pytest.mark.parametrize("from_p5", [True, False])
def test_the_pyramid_begins_at_c3_and_p6_comes_from_p5_or_c5(from_p5: bool) -> None:
    torch.manual_seed(0)
    # As many channels as C5 has: torchvision would guess where P6 comes from.
    backbone = dense_pyramid(parse_recipe("model: {backbone: resnet18, fpn_channels: 512}"), from_p5).eval()
    body, fpn = backbone.body, backbone.fpn
    pictures = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        c2 = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(pictures)))))
        c3 = body.layer2(c2)
        c4 = body.layer3(c3)
        c5 = body.layer4(c4)
        inner5 = fpn.inner_blocks[2](c5)
        inner4 = fpn.inner_blocks[1](c4) + nn.functional.interpolate(inner5, size=(8, 10))
        inner3 = fpn.inner_blocks[0](c3) + nn.functional.interpolate(inner4, size=(16, 20))
        levels = [block(inner) for block, inner in zip(fpn.layer_blocks, (inner3, inner4, inner5), strict=True)]
        p6 = fpn.extra_blocks.p6(levels[2] if from_p5 else c5)
        levels += [p6, fpn.extra_blocks.p7(torch.relu(p6))]
        found = list(backbone(pictures).values())
    assert [tuple(level.shape[-2:]) for level in found] == [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
    for mine, wanted in zip(found, levels, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_norms_are_in_backbone_and_pyramid_and_nothing_is_frozen() -> None:
    for detector, groups in (("retinanet", 0), ("fcos", 8)):
        model = build_detector(parse_recipe(SMALL, [f"finetune.detector={detector}"]), CLASSES)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 20 + 6
        assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == groups
        assert all(parameter.requires_grad for parameter in model.parameters())
        state = model.state_dict()
        assert "backbone.fpn.inner_blocks.0.0.bias" not in state
        assert list(state["backbone.fpn.inner_blocks.0.0.weight"].shape) == [64, 128, 1, 1]
        assert "backbone.fpn.extra_blocks.p6.bias" in state
        bias = state["head.classification_head.cls_logits.bias"]
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))


def test_group_norms_get_no_weight_decay() -> None:
    recipe = parse_recipe(SMALL, ["finetune.detector=fcos"])
    model = build_detector(recipe, CLASSES)
    weights, biases, norms = build_optimizer(model, recipe.finetune).param_groups
    assert norms["weight_decay"] == 0
    assert len(norms["params"]) == 2 * (20 + 6 + 8)
    assert sum(len(group["params"]) for group in (weights, biases, norms)) == len(list(model.parameters()))


def test_the_focal_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    p = [1 / (1 + math.exp(-value)) for value in (2.0, -1.0, 0.5, 0.0)]
    wanted = -0.25 * (1 - p[1]) ** 2 * math.log(p[1])  # the first place is of class 2, the second of none
    wanted += sum(-0.75 * p[index] ** 2 * math.log(1 - p[index]) for index in (0, 2, 3))
    assert focal_loss(logits, torch.tensor([2, 0])).item() == pytest.approx(wanted, rel=1e-6)


def test_retinanet_s_anchors_have_three_sizes_an_octave() -> None:
    model = build_detector(parse_recipe("finetune: {detector: retinanet}\nmodel: {backbone: resnet18}"), CLASSES)
    cells = model.anchor_generator.cell_anchors
    assert [len(level) for level in cells] == [9] * 5
    areas = (cells[1][:, 2:] - cells[1][:, :2]).prod(1)
    wanted = torch.tensor([64 * 2 ** (octave / 3) for octave in range(3)]).repeat_interleave(3)
    torch.testing.assert_close(areas.sqrt(), wanted)
    grids = [torch.zeros(1, 1, side, side) for side in (20, 10, 5, 3, 2)]
    anchors = model.anchor_generator(ImageList(torch.zeros(1, 3, 160, 160), [(160, 160)]), grids)[0]
    assert len(anchors) == 9 * (400 + 100 + 25 + 9 + 4)
    last = (anchors[-9:, :2] + anchors[-9:, 2:]) / 2
    torch.testing.assert_close(last, torch.full((9, 2), 128.0), atol=1e-3, rtol=0)


def test_retinanet_divides_by_the_positives_of_the_batch() -> None:
    torch.manual_seed(0)
    head = BatchRetinaNetHead(8, 1, 2)
    anchors = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10], [30, 30, 40, 40], [5, 5, 9, 9]])] * 2
    objects = [
        {"boxes": torch.tensor([[0.0, 0, 12, 10], [1, 2, 20, 10]]), "labels": torch.tensor([2, 1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    matches = [torch.tensor([0, 1, -1, -2]), torch.tensor([-1, -1, -1, -1])]
    logits, deltas = torch.randn(2, 4, 2), torch.randn(2, 4, 4)
    found = head.compute_loss(objects, {"cls_logits": logits, "bbox_regression": deltas}, anchors, matches)
    wanted = torch.zeros(2, 4, 2)
    wanted[0, 0, 1] = wanted[0, 1, 0] = 1
    valid = torch.ones(2, 4, dtype=torch.bool)
    valid[0, 3] = False  # between the thresholds
    focal = sigmoid_focal_loss(logits[valid], wanted[valid], alpha=0.25, gamma=2, reduction="sum")
    # (centre offset / size, log of the ratio of sizes) of both positives
    goal = torch.tensor([[0.1, 0.0, math.log(1.2), 0.0], [0.025, 0.1, math.log(0.95), math.log(0.8)]])
    torch.testing.assert_close(found["loss_classifier"], focal / 2)
    torch.testing.assert_close(found["loss_box_reg"], (deltas[0, :2] - goal).abs().sum() / 2)


def test_on_one_image_retinanet_is_torchvision_s_with_labels_shifted() -> None:
    torch.manual_seed(0)
    model = build_detector(parse_recipe(SMALL, ["finetune.detector=retinanet"]), CLASSES)
    picture, target = [images()[0]], [targets()[0]]
    found = model(picture, target)
    model.head.__class__ = RetinaNetHead
    stock = model(picture, [{**target[0], "labels": target[0]["labels"] - 1}])
    torch.testing.assert_close(found["loss_classifier"], stock["classification"])
    torch.testing.assert_close(found["loss_box_reg"], stock["bbox_regression"])


@pytest.mark.parametrize(
    ("detector", "variant"), [("retinanet", "mmdetection"), ("fcos", "mmdetection"), ("fcos", "detectron2")]
)
def test_both_modes_and_every_parameter_learns(detector: str, variant: str) -> None:
    torch.manual_seed(0)
    recipe = parse_recipe(
        SMALL, [f"finetune.detector={detector}", f"finetune.fcos_variant={variant}", "finetune.score_threshold=0.0"]
    )
    model = build_detector(recipe, CLASSES)
    losses = model(images(), targets())
    assert all(loss.isfinite() for loss in losses.values())
    assert sorted(losses)[:2] == ["loss_box_reg", "loss_centerness"] or len(losses) == 2
    torch.stack(list(losses.values())).sum().backward()
    idle = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not idle
    nothing = model(images()[:1], targets()[1:])
    torch.stack(list(nothing.values())).sum().backward()
    assert nothing["loss_box_reg"] == 0
    assert nothing["loss_classifier"] > 0
    model.eval()
    with torch.no_grad():
        found = model(images())
    for image, item in zip(images(), found, strict=True):
        assert sorted(item) == ["boxes", "labels", "scores"]
        assert item["boxes"].shape == (100, 4)
        assert item["labels"].min() >= 1
        assert item["labels"].max() <= CLASSES
        assert item["boxes"].min() >= 0
        assert (item["boxes"] <= torch.tensor([image.shape[2], image.shape[1]] * 2)).all()
        assert (item["scores"].diff() <= 0).all()


@pytest.mark.parametrize("detector", ["mask-rcnn-fpn", "mask-rcnn-c4", "retinanet", "fcos"])
def test_boxes_and_losses_are_float32_whatever_the_network_computes_in(detector: str) -> None:
    torch.manual_seed(0)
    sizes = ["finetune.c4_roi_size=4", "finetune.roi_batch_per_image=8", "finetune.score_threshold=0.0"]
    recipe = parse_recipe(SMALL, [f"finetune.detector={detector}", "finetune.proposals_test=5", *sizes])
    model = build_detector(recipe, CLASSES)
    square = [np.array([6.0, 7.0, 36.0, 7.0, 36.0, 30.0, 6.0, 30.0])]
    given = [{**target, "masks": [square] * len(target["labels"])} for target in targets()]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images(), given)
        model.eval()
        with torch.no_grad():
            found = model(images())[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    # bfloat16 has 8 bits: in it, no coordinate above 128 would lie between whole pixels.
    assert (found["boxes"] % 1 != 0).any()

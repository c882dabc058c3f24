"""FCOS: which point finds which object, and the losses, by hand; its other variant against torchvision's model."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS

from soco_core.detection.dense import DENSE_STRIDES, focal_loss
from soco_core.detection.fcos import Fcos, iou_loss
from soco_core.detection.fcos_head import FcosHead, FcosOutputs, assign_points, centerness_of, pyramid_points
from soco_core.recipes import parse_recipe

LIMITS = (16, 32, 64, 128)
USUAL_LIMITS = (64, 128, 256, 512)
CLASSES = 3
Variant = Literal["mmdetection", "detectron2"]


def points_of(side: int) -> list[Tensor]:
    """The points of a square image; levels too coarse for it are empty."""
    return pyramid_points([torch.zeros(1, 1, side // stride, side // stride) for stride in DENSE_STRIDES])


def found_by(boxes: list[list[float]], variant: Variant, limits: tuple[int, ...] = LIMITS) -> dict[Any, int]:
    """Point -> object, of those that find one; each level's points have coordinates of their own."""
    levels = points_of(128)
    match = assign_points(levels, torch.tensor(boxes), limits, variant).tolist()
    return {tuple(point): index for point, index in zip(torch.cat(levels).tolist(), match, strict=True) if index >= 0}


def fcos(variant: Variant, **settings: Any) -> Fcos:
    """An FCOS without a backbone."""
    values = [f"{key}={value}" for key, value in settings.items()]
    recipe = parse_recipe(f"finetune: {{detector: fcos, fcos_variant: {variant}}}", values)
    torch.manual_seed(0)
    return Fcos(nn.Identity(), FcosHead(64, CLASSES, variant), recipe.finetune)


def test_points_are_the_centres_of_the_cells() -> None:
    found = pyramid_points([torch.zeros(1, 1, 2, 3), *[torch.zeros(1, 1, 1, 1)] * 4])
    assert found[0].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert [level.tolist() for level in found[1:]] == [[[side, side]] for side in (8, 16, 32, 64)]


@pytest.mark.parametrize("variant", ["mmdetection", "detectron2"])
def test_a_point_finds_the_smallest_object_around_it_that_its_level_reaches(variant: Variant) -> None:
    boxes = [[10.0, 10.0, 30.0, 30.0], [2.0, 2.0, 62.0, 62.0], [30.0, 30.0, 62.0, 62.0], [34.0, 34.0, 90.0, 90.0]]
    assert found_by(boxes, variant) == {
        (20, 20): 0,  # stride 8 reaches 16 pixels; from 12 or 28 the farther side is at 18
        (16, 16): 1,  # stride 32, from 32 to 64 pixels: 46 to the farther sides
        (48, 16): 1,
        (16, 48): 1,
        (40, 40): 2,  # stride 16, from 16 to 32 pixels: 22 and 26
        (56, 40): 2,
        (40, 56): 2,
        (56, 56): 2,
        (48, 48): 3,  # in object 1 as well, which is larger
        (80, 48): 3,
        (48, 80): 3,
        (80, 80): 3,
    }


def test_centre_sampling_leaves_the_points_within_1_5_strides() -> None:
    box = [[0.0, 0.0, 60.0, 60.0]]
    every = found_by(box, "mmdetection", USUAL_LIMITS)
    assert set(every) == {(x, y) for x in range(4, 60, 8) for y in range(4, 60, 8)}
    central = found_by(box, "detectron2", USUAL_LIMITS)
    assert set(central) == {(x, y) for x in (20, 28, 36) for y in (20, 28, 36)}


def test_a_distance_on_the_limit_counts_in_mmdetection() -> None:
    box = [[4.0, 12.0, 28.0, 28.0]]  # 16 from its left side to the point at 20
    assert (20, 20) in found_by(box, "mmdetection")
    assert (20, 20) not in found_by(box, "detectron2")


def test_no_object_no_match() -> None:
    assert (assign_points(points_of(64), torch.zeros(0, 4), LIMITS, "mmdetection") == -1).all()


def test_centerness_by_hand() -> None:
    sides = torch.tensor([[10.0, 8.0, 10.0, 10.0], [1.0, 5.0, 4.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    assert centerness_of(sides).tolist() == pytest.approx([math.sqrt(0.8), 0.5, 1.0])


def test_iou_loss_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 1.0, 1.0]])
    wanted = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [5.0, 5.0, 6.0, 6.0]])
    assert iou_loss(boxes, wanted).tolist() == pytest.approx([0.0, math.log(3.0), -math.log(1e-6)], abs=1e-6)


def test_mmdetection_s_losses_by_hand() -> None:
    model = fcos("mmdetection", **{"finetune.fcos_limits": list(LIMITS)})
    levels = points_of(32)
    count = sum(len(level) for level in levels)
    # Found from (20, 20), 10 from its left, 8 from its upper side ..., and from (20, 28), 2 from its lower side.
    target = {"boxes": torch.tensor([[10.0, 12.0, 30.0, 30.0]]), "labels": torch.tensor([2])}
    places = [2 * 4 + 2, 3 * 4 + 2]
    logits, distances, centerness = torch.randn(2, count, CLASSES), torch.rand(2, count, 4), torch.randn(2, count)
    distances[0, places] = torch.tensor([[10.0, 8.0, 10.0, 5.0], [10.0, 8.0, 10.0, 10.0]])
    centerness[0, places] = torch.tensor([0.3, -0.7])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = model.losses(FcosOutputs(logits, distances, centerness), levels, [target, nothing])
    first, second = math.sqrt(0.8), math.sqrt(2 / 16)
    overlap = [13 / 18, 200 / (360 + 360 - 200)]
    box_loss = -(first * math.log(overlap[0]) + second * math.log(overlap[1])) / (first + second)
    assert found["loss_box_reg"].item() == pytest.approx(box_loss, rel=1e-5)
    softplus = [math.log1p(math.exp(value)) for value in (0.3, -0.7)]
    assert found["loss_centerness"].item() == pytest.approx(
        (softplus[0] - 0.3 * first + softplus[1] + 0.7 * second) / 2, rel=1e-5
    )
    classes = torch.zeros(2 * count, dtype=torch.int64)
    classes[places] = 2
    torch.testing.assert_close(found["loss_classifier"], focal_loss(logits.flatten(0, 1), classes) / 2)


def test_detectron2_s_losses_are_those_of_torchvision_s_stock_fcos() -> None:
    model, levels = fcos("detectron2"), points_of(256)
    backbone = nn.Identity()
    backbone.out_channels = 64
    stock = FCOS(backbone, CLASSES)
    counts = [len(level) for level in levels]
    strides = torch.tensor(DENSE_STRIDES).repeat_interleave(torch.tensor(counts))[:, None]
    points = torch.cat(levels)
    anchors = torch.cat([points - strides / 2, points + strides / 2], 1)
    torch.manual_seed(1)
    outputs = FcosOutputs(
        torch.randn(2, len(points), CLASSES), torch.rand(2, len(points), 4) * strides, torch.randn(2, len(points))
    )
    boxes = [[10.0, 20.0, 90.0, 70.0], [50.0, 60.0, 250.0, 240.0]], [[5.0, 5.0, 40.0, 50.0], [0.0, 0.0, 256.0, 200.0]]
    labels = torch.tensor([1, 3]), torch.tensor([2, 2])
    targets = [{"boxes": torch.tensor(box), "labels": label} for box, label in zip(boxes, labels, strict=True)]
    found = model.losses(outputs, levels, targets)
    given = {
        "cls_logits": outputs.logits,
        "bbox_regression": outputs.distances / strides,
        "bbox_ctrness": outputs.centerness[..., None],
    }
    shifted = [{**target, "labels": target["labels"] - 1} for target in targets]
    wanted = stock.compute_loss(shifted, given, [anchors] * 2, counts)
    torch.testing.assert_close(found["loss_classifier"], wanted["classification"])
    torch.testing.assert_close(found["loss_box_reg"], wanted["bbox_regression"])
    torch.testing.assert_close(found["loss_centerness"], wanted["bbox_ctrness"])


@pytest.mark.parametrize("variant", ["mmdetection", "detectron2"])
def test_the_head_s_branches(variant: Variant) -> None:
    head = fcos(variant).head
    features = [torch.randn(1, 64, side, side) for side in (8, 4, 3, 2, 1)]
    if head.scales is not None:
        nn.init.uniform_(head.scales, 0.5, 2.0)
    outputs = head(features)
    assert [tuple(part.shape) for part in outputs] == [(1, 94, CLASSES), (1, 94, 4), (1, 94)]
    of_class, of_box = head.classification_head.conv(features[1]), head.regression_head.conv(features[1])
    second = slice(64, 80)
    raw = head.regression_head.bbox_reg(of_box)[0, :, 2, 3]
    distances = torch.relu(raw) * 16 if head.scales is None else torch.exp(head.scales[1] * raw)
    torch.testing.assert_close(outputs.distances[0, second][2 * 4 + 3], distances)
    branch = of_class if variant == "mmdetection" else of_box
    torch.testing.assert_close(
        outputs.centerness[0, second].reshape(4, 4), head.regression_head.bbox_ctrness(branch)[0, 0]
    )
    logits = head.classification_head.cls_logits(of_class)
    torch.testing.assert_close(outputs.logits[0, second].reshape(4, 4, CLASSES), logits[0].permute(1, 2, 0))


@pytest.mark.parametrize("variant", ["mmdetection", "detectron2"])
def test_scores_join_class_and_centerness(variant: Variant) -> None:
    model = fcos(variant, **{"finetune.score_threshold": 0.3})
    levels = points_of(32)
    count = sum(len(level) for level in levels)
    logits, centerness = torch.full((count, CLASSES), -9.0), torch.full((count,), 9.0)
    logits[5, 1], centerness[5] = 2.0, -1.0  # 0.881 x 0.269 = 0.237, root 0.487
    logits[10, 2], centerness[10] = -0.5, 1.0  # 0.378 x 0.731 = 0.276, root 0.525
    logits[15, 0], centerness[15] = -1.0, 1.0  # 0.269 x 0.731 = 0.197, root 0.443
    found = model._detections(FcosOutputs(logits, torch.full((count, 4), 3.0), centerness), levels, (32, 30))
    both = [torch.sigmoid(torch.tensor(a)) * torch.sigmoid(torch.tensor(b)) for a, b in ((-0.5, 1.0), (2.0, -1.0))]
    if variant == "mmdetection":  # the threshold is the class's
        assert found["labels"].tolist() == [3, 2]
        torch.testing.assert_close(found["scores"], torch.stack(both))
        boxes = [[17, 17, 23, 23], [9, 9, 15, 15]]
    else:
        assert found["labels"].tolist() == [3, 2, 1]
        torch.testing.assert_close(found["scores"][:2], torch.stack(both).sqrt())
        boxes = [[17, 17, 23, 23], [9, 9, 15, 15], [25, 25, 30, 31]]
    assert found["boxes"].tolist() == boxes


def test_group_norm_divides_narrow_widths() -> None:
    assert FcosHead(48, CLASSES, "mmdetection").classification_head.conv[1].num_groups == 8
    assert FcosHead(64, CLASSES, "mmdetection").regression_head.conv[1].num_groups == 32
    assert FcosHead(256, CLASSES, "mmdetection").classification_head.conv[1].num_groups == 32

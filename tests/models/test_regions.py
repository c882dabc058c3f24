"""Levels at their borders, and pooling at a box's own level."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from soco_core.models.regions import assign_levels, pool_regions

LIMITS = (48, 96, 192)


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [
        (1, 1, 0),
        (48, 48, 0),
        (49, 48, 1),
        (24, 96, 0),  # sqrt(24 * 96) = 48
        (96, 96, 1),
        (96.01, 96, 2),
        (192, 192, 2),
        (193, 192, 3),
        (224, 224, 3),
        (500, 500, 3),
        (0, 0, 0),
    ],
)
def test_borders(width: float, height: float, level: int) -> None:
    box = torch.tensor([[3.0, 5.0, 3.0 + width, 5.0 + height]])
    assert assign_levels(box, LIMITS).tolist() == [level]


def test_each_box_is_pooled_at_its_own_level_in_the_given_order() -> None:
    generator = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(2, 5, 224 // s, 224 // s, generator=generator) for s in (4, 8, 16, 32)]
    sides = torch.tensor([[200.0, 30.0, 150.0, 60.0], [20.0, 220.0, 90.0, 100.0]])
    boxes = torch.stack([torch.full_like(sides, 2.0), torch.full_like(sides, 3.0), 2 + sides, 3 + sides], -1)
    levels = assign_levels(boxes, LIMITS)
    assert levels.tolist() == [[3, 0, 2, 1], [0, 3, 1, 2]]
    pooled = pool_regions(pyramid, boxes, levels, 7).unflatten(0, (2, 4))
    for image in range(2):
        for k in range(4):
            level = int(levels[image, k])
            expected = roi_align(
                pyramid[level][image : image + 1], [boxes[image, k][None]], 7, 1 / (4 * 2**level), -1, True
            )
            torch.testing.assert_close(pooled[image, k], expected[0])

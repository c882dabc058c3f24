"""Any recipe made tiny: what a setting does stays, its cost goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soco_core.recipes import load_recipe

SIDE = 64
SHRINK = 512
"""Of the batch; the learning rate stays the full one's."""


def tiny(name: str) -> list[str]:
    """Overrides (`section.field=value`) that leave a named recipe its switches and K, and two steps of time.

    Sizes, level limits and batches shrink in proportion, so that settings which differ in them still do.
    """
    recipe = load_recipe(name)
    scale = SIDE / recipe.views.size

    def side(pixels: int) -> int:
        return max(32, round(pixels * scale))

    return [
        f"views.size={SIDE}",
        f"views.small_size={side(recipe.views.small_size)}",
        f"views.fourth_size={side(recipe.views.fourth_size)}",
        f"model.level_limits={[round(limit * scale) for limit in recipe.model.level_limits]}",
        "model.backbone=resnet18",
        "model.fpn_channels=16",
        "model.head_fc_size=32",
        "model.hidden_size=32",
        "model.embedding_size=16",
        f"pretrain.batch_size={max(2, recipe.pretrain.batch_size // SHRINK)}",
        f"pretrain.base_learning_rate={recipe.pretrain.base_learning_rate * SHRINK}",
        "pretrain.epochs=2",
        "pretrain.warmup_epochs=0.0",
    ]


@pytest.fixture
def tiny_overrides() -> Callable[[str], list[str]]:
    return tiny

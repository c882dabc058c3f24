"""Any recipe made tiny: what a setting does stays, its cost goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soco_core.recipes import load_recipe

SIDE = 76
SHRINK = 256
"""Of the batch; the learning rate stays the full one's."""


def tiny(name: str) -> list[str]:
    """Overrides (`section.field=value`) that leave a named recipe its switches and K, and two steps of time.

    Sizes, level limits and batches shrink in proportion, so that settings which differ in them still
    do; the image set has one batch, so that two epochs are two steps: the first of the warm-up, the second at the peak.
    """
    recipe = load_recipe(name)
    scale = SIDE / recipe.views.size
    batch_size = recipe.pretrain.batch_size // SHRINK
    return [
        f"images.subset={batch_size}",
        f"views.size={SIDE}",
        f"views.small_size={round(recipe.views.small_size * scale)}",
        f"views.fourth_size={round(recipe.views.fourth_size * scale)}",
        f"model.level_limits={[round(limit * scale) for limit in recipe.model.level_limits]}",
        f"model.roi_size={round(recipe.model.roi_size * scale)}",
        "model.backbone=resnet18",
        "model.fpn_channels=16",
        "model.head_fc_size=32",
        "model.hidden_size=32",
        "model.embedding_size=16",
        f"pretrain.batch_size={batch_size}",
        f"pretrain.base_learning_rate={recipe.pretrain.base_learning_rate * SHRINK}",
        "pretrain.epochs=2",
        "pretrain.warmup_epochs=1.0",
        "runtime.workers=0",
        "runtime.search_workers=0",
        "runtime.device=cpu",
    ]


@pytest.fixture
def tiny_overrides() -> Callable[[str], list[str]]:
    return tiny

"""Every named setting, the 22 of Tables 4 and 5 among them: it builds, and it trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from soco_core.config import ViewsConfig
from soco_core.models.soco import SoCo, ViewBatch
from soco_core.pretrain.lars import LARS
from soco_core.pretrain.loss import soco_loss
from soco_core.pretrain.schedules import ema_coefficients, learning_rates
from soco_core.recipes import load_recipe, named_recipes

SETTINGS = [name for name in named_recipes() if name != "demo"]


def random_views(config: ViewsConfig, batch: int, generator: torch.Generator) -> list[ViewBatch]:
    """Views as the recipe asks for them: their number and sizes, boxes a view, ids; noise for pixels."""
    sides = [config.size, config.size]
    sides += [config.small_size] * (config.third_view != "none")
    sides += [config.fourth_size] * config.fourth_view
    count = config.proposals_per_image
    views = []
    for number, side in enumerate(sides):
        blocks = len(sides) - 1 if number == 0 and config.draw == "per-pair" else 1
        size = side * (0.3 + 0.5 * torch.rand(batch, blocks * count, 2, generator=generator))
        corner = (side - size) * torch.rand(batch, blocks * count, 2, generator=generator)
        boxes = torch.cat([corner, corner + size], -1)
        if config.objects == "whole-image":
            boxes = torch.tensor([0.0, 0.0, side, side]).expand(batch, blocks * count, 4)
        ids = torch.arange(count).repeat(blocks).expand(batch, -1)
        views.append(ViewBatch(torch.randn(batch, 3, side, side, generator=generator), boxes, ids))
    return views


@pytest.mark.parametrize("name", SETTINGS)
def test_it_builds_and_trains_two_steps(name: str, tiny_overrides: Callable[[str], list[str]]) -> None:
    recipe = load_recipe(name, tiny_overrides(name))
    config = recipe.pretrain
    torch.manual_seed(0)
    networks = SoCo(recipe.model).train()
    optimizer = LARS(networks.online.parameters(), 0.0, config.momentum, config.weight_decay, config.trust_coefficient)
    rates, coefficients = learning_rates(config, config.batch_size, 1), ema_coefficients(config, 1)
    assert len(rates) == len(coefficients) == 2
    before = {key: value.clone() for key, value in networks.named_parameters()}

    views = random_views(recipe.views, config.batch_size, torch.Generator().manual_seed(1))
    bound = 4.0 * (len(views) - 1)
    losses = []
    for rate, coefficient in zip(rates, coefficients, strict=True):
        networks.update_target(float(coefficient))
        online, target = networks(views)
        terms = soco_loss(online, target, [view.ids for view in views])
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in networks.online.parameters())
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
        assert len(terms) == 1 + 2 * (len(views) - 1)
    assert all(-bound <= loss <= bound for loss in losses)

    moved = {key for key, value in networks.named_parameters() if not torch.equal(value, before[key])}
    # Scales behind a zero-initialised one get next to no gradient yet.
    assert {key for key, value in before.items() if key.startswith("online.") and value.ndim > 1} <= moved
    # The target follows what the first step made of the online network.
    assert {key for key, value in before.items() if key.startswith("target.") and value.ndim > 1} <= moved

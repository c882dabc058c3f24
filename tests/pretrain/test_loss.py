"""The loss by hand, its bounds, and the measure of collapse."""

from __future__ import annotations

import pytest
import torch

from soco_core.pretrain.loss import directional_loss, embedding_spread, soco_loss


@pytest.mark.parametrize(("view_count", "minimum"), [(2, -4.0), (3, -8.0), (4, -12.0)])
def test_minimum_is_reached_by_equal_embeddings(view_count: int, minimum: float) -> None:
    one_view = torch.randn(5, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = one_view.expand(view_count, -1, -1, -1)
    assert float(soco_loss(same, 3.0 * same)["loss"]) == pytest.approx(minimum, abs=1e-12)
    assert float(soco_loss(same, -same)["loss"]) == pytest.approx(-minimum, abs=1e-12)


def test_minimum_is_a_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 5, 4, 16, dtype=torch.float64, generator=generator)
    target[1:] = target[0]
    online = target.clone().requires_grad_()
    terms = soco_loss(online, target)
    terms["loss"].backward()
    assert online.grad is not None
    assert online.grad.abs().max() < 1e-12
    noisy = target + 0.1 * torch.randn(target.shape, dtype=torch.float64, generator=generator)
    assert soco_loss(noisy, target)["loss"] > terms["loss"]


def test_one_term_by_hand() -> None:
    # Cosines 1, 0 (image one) and 0.6, -1 (image two): -2 * (1 + 0 + 0.6 - 1) / 4 = -0.3.
    online = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [1.0, 1.0]]])
    target = torch.tensor([[[5.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [-2.0, -2.0]]])
    assert float(directional_loss(online, target)) == pytest.approx(-0.3, abs=1e-6)


def test_terms_pair_the_first_view_with_each_other_both_ways() -> None:
    online = torch.eye(3).reshape(3, 1, 1, 3)
    target = torch.roll(online, 1, dims=0)  # target of view j is the online embedding of view j - 1
    terms = {name: float(value) for name, value in soco_loss(online, target).items()}
    assert terms == {"1_to_2": -2.0, "2_to_1": 0.0, "1_to_3": 0.0, "3_to_1": -2.0, "loss": -4.0}


def test_no_gradient_reaches_the_target() -> None:
    online = torch.randn(3, 2, 2, 4, requires_grad=True)
    target = torch.randn(3, 2, 2, 4, requires_grad=True)
    soco_loss(online, target)["loss"].backward()
    assert target.grad is None


def test_spread_is_zero_at_collapse_and_one_on_the_sphere() -> None:
    assert float(embedding_spread(torch.ones(64, 8) * 3)) == pytest.approx(0.0, abs=1e-6)
    sphere = torch.randn(20000, 8, generator=torch.Generator().manual_seed(0))
    assert float(embedding_spread(sphere)) == pytest.approx(1.0, abs=0.02)

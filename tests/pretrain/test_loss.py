"""The loss by hand, its bounds, which boxes it pairs, and the measure of collapse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from soco_core.pretrain.loss import directional_loss, soco_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss_of(online: list[Tensor], target: list[Tensor], ids: list[Tensor]) -> float:
    return float(soco_loss(online, target, ids)["loss"])


@pytest.mark.parametrize(
    ("views", "minimum"), [(2, -4.0), (3, -8.0), (4, -12.0)], ids=["SoCo-C4", "SoCo-FPN", "SoCo-star"]
)
@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [5, 2, 5, 2]], ids=["distinct", "repeated"])
def test_minimum_is_reached_by_equal_embeddings(views: int, minimum: float, ids: list[int]) -> None:
    """ "Equal": every box of an object, in every view and both networks; length does not count."""
    objects = random(5, 6, 16)[:, ids]
    numbers = [torch.tensor(ids).expand(5, -1)] * views
    assert loss_of([objects] * views, [3.0 * objects] * views, numbers) == pytest.approx(minimum, abs=1e-12)
    assert loss_of([objects] * views, [-objects] * views, numbers) == pytest.approx(-minimum, abs=1e-12)


@pytest.mark.parametrize(("views", "minimum"), [(2, -4.0), (3, -8.0), (4, -12.0)])
def test_nothing_is_below_the_minimum(views: int, minimum: float) -> None:
    same = random(5, 4, 16)
    online = [same.clone().requires_grad_() for _ in range(views)]
    ids = [torch.arange(4).expand(5, -1)] * views
    soco_loss(online, [same] * views, ids)["loss"].backward()
    assert all(v.grad is not None and v.grad.abs().max() < 1e-12 for v in online)
    for seed in range(5):
        noisy = [same + 0.1 * random(5, 4, 16, seed=10 * seed + j) for j in range(views)]
        assert minimum < loss_of(noisy, [same] * views, ids) < minimum + 0.5
        unrelated = [random(5, 4, 16, seed=100 * seed + j) for j in range(views)]
        assert abs(loss_of(unrelated, [same] * views, ids)) < -minimum / 2


def test_one_term_by_hand() -> None:
    # Cosines 1, 0 (image one) and 0.6, -1 (image two): -2 * ((1 + 0) / 2 + (0.6 - 1) / 2) / 2 = -0.3.
    online = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [1.0, 1.0]]])
    target = torch.tensor([[[5.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [-2.0, -2.0]]])
    matches = torch.eye(2, dtype=torch.bool).expand(2, -1, -1)
    assert float(directional_loss(online, target, matches)) == pytest.approx(-0.3, abs=1e-6)


def test_repeated_proposals_by_hand() -> None:
    """All pairs of the same proposal count alike within an image, and all images alike."""
    up, right, slant = [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]
    online = [torch.tensor([[up, right, slant], [up, right, slant]])] * 2
    target = [torch.tensor([[up, up, right], [up, up, right]])] * 2
    # Image one, proposals 4, 4, 9 against 4, 9, 4: up and right each meet up and right (1, 0, 0, 1), slant meets up
    # (0.8): 2.8 / 5. Image two, proposals 1, 2, 3 in both: 1, 0, 0.6 of 3.
    ids = [torch.tensor([[4, 4, 9], [1, 2, 3]]), torch.tensor([[4, 9, 4], [1, 2, 3]])]
    terms = soco_loss(online, target, ids)
    assert float(terms["1_to_2"]) == pytest.approx(-2 * (2.8 / 5 + 1.6 / 3) / 2, abs=1e-6)
    # Back, V2's boxes 4, 9, 4 are online and V1's 4, 4, 9 the targets: up meets up and up (2), right meets right
    # (1), slant meets up and up (1.6): 4.6 / 5.
    assert float(terms["2_to_1"]) == pytest.approx(-2 * (4.6 / 5 + 1.6 / 3) / 2, abs=1e-6)
    assert float(terms["loss"]) == pytest.approx(float(terms["1_to_2"] + terms["2_to_1"]))


def test_distinct_proposals_give_the_mean_over_boxes() -> None:
    online, target = random(6, 4, 8, seed=1), random(6, 4, 8, seed=2)
    shuffled = torch.tensor([2, 0, 3, 1])
    ids = [torch.arange(4).expand(6, -1), shuffled.expand(6, -1)]
    terms = soco_loss([online, online], [target, target[:, shuffled]], ids)
    expected = -2 * torch.nn.functional.cosine_similarity(online, target, dim=-1).mean()
    assert float(terms["1_to_2"]) == pytest.approx(float(expected), abs=1e-12)


def test_an_image_without_a_match_counts_as_zero() -> None:
    same = random(2, 2, 4)
    ids = [torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0, 1], [2, 3]])]
    terms = soco_loss([same, same], [same, same], ids)
    assert float(terms["loss"]) == pytest.approx(-2.0, abs=1e-12)


def test_terms_pair_the_first_view_with_each_other_both_ways() -> None:
    online = [row.reshape(1, 1, 3) for row in torch.eye(3)]
    target = [online[2], online[0], online[1]]  # target of view j is the online embedding of view j - 1
    ids = [torch.zeros(1, 1, dtype=torch.int64)] * 3
    terms = {name: float(value) for name, value in soco_loss(online, target, ids).items()}
    assert terms == {"1_to_2": -2.0, "2_to_1": 0.0, "1_to_3": 0.0, "3_to_1": -2.0, "loss": -4.0}


def test_each_pair_has_its_own_block_of_the_first_views_boxes() -> None:
    """V1 holds the boxes of (V1, V2), then those of (V1, V3); a proposal drawn for both is not mixed up."""
    v2, v3, elsewhere = random(2, 2, 8, seed=1), random(2, 2, 8, seed=2), random(2, 2, 8, seed=3)
    first = torch.cat([v2, v3], dim=1)
    ids = [torch.tensor([[0, 1, 1, 2]] * 2), torch.tensor([[0, 1]] * 2), torch.tensor([[1, 2]] * 2)]
    assert loss_of([first, v2, v3], [first, v2, v3], ids) == pytest.approx(-8.0, abs=1e-12)
    changed = torch.cat([v2, elsewhere], dim=1)
    terms = soco_loss([changed, v2, v3], [changed, v2, v3], ids)
    assert float(terms["1_to_2"]) == pytest.approx(-2.0, abs=1e-12)
    assert float(terms["2_to_1"]) == pytest.approx(-2.0, abs=1e-12)
    assert min(float(terms["1_to_3"]), float(terms["3_to_1"])) > -1.9


def test_other_numbers_of_boxes_are_refused() -> None:
    parts = [random(2, 3, 8), random(2, 2, 8), random(2, 2, 8)]
    ids = [torch.zeros(2, part.shape[1], dtype=torch.int64) for part in parts]
    with pytest.raises(ValueError, match="V1 has 3 boxes, V2 2: neither the same nor a block a pair"):
        soco_loss(parts, parts, ids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_compared_in_float32(dtype: torch.dtype) -> None:
    # Their squares are beyond half precision's range, and the sum over 256 of them beyond its resolution.
    online, target = ((300 * random(4, 4, 256, seed=seed)).to(dtype) for seed in (1, 2))
    ids = [torch.arange(4).expand(4, -1)] * 2
    loss = soco_loss([online, online], [target, target], ids)["loss"]
    assert loss.dtype == torch.float32
    expected = loss_of([online.double()] * 2, [target.double()] * 2, ids)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_no_gradient_reaches_the_target() -> None:
    online, target = ([random(2, 2, 4, seed=j).requires_grad_() for j in range(3)] for _ in range(2))
    soco_loss(online, target, [torch.arange(2).expand(2, -1)] * 3)["loss"].backward()
    assert all(v.grad is None for v in target)
    assert all(v.grad is not None for v in online)

"""The pair of networks: what is shared, what learns, what follows, and how views share a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from soco_core.config import ModelConfig
from soco_core.models.soco import SoCo, ViewBatch
from soco_core.pretrain.loss import soco_loss

Model = Callable[..., ModelConfig]
Pair = Callable[..., SoCo]
Views = Callable[..., list[ViewBatch]]


def loss_of(networks: SoCo, views: list[ViewBatch]) -> torch.Tensor:
    return soco_loss(*networks(views), [view.ids for view in views])["loss"]


def test_target_starts_as_a_copy_and_has_no_predictor(small_model: Model) -> None:
    networks = SoCo(small_model())
    online, target = networks.online.state_dict(), networks.target.state_dict()
    assert set(online) - set(target) == {key for key in online if key.startswith("predictor.")}
    assert all(torch.equal(online[key], value) for key, value in target.items())


def test_only_the_online_network_learns(small_model: Model, make_views: Views) -> None:
    networks = SoCo(small_model())
    loss_of(networks, make_views()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in networks.online.parameters())
    assert all(p.grad is None and not p.requires_grad for p in networks.target.parameters())


def test_target_moves_by_the_coefficient_parameters_only(pair: Pair, small_model: Model, make_views: Views) -> None:
    networks = pair(small_model())
    networks.online(make_views())  # moves the online network's running statistics
    before = {key: value.clone() for key, value in networks.target.state_dict().items()}
    networks.update_target(0.9)
    online = networks.online.state_dict()
    parameters = dict(networks.target.named_parameters())
    for key, value in networks.target.state_dict().items():
        expected = 0.9 * before[key] + 0.1 * online[key] if key in parameters else before[key]
        torch.testing.assert_close(value, expected)


def test_the_online_network_is_a_module_of_its_own(pair: Pair, small_model: Model, make_views: Views) -> None:
    networks = pair(small_model()).eval()
    views = make_views()
    online, target = networks(views)
    assert [tuple(part.shape) for part in online] == [(2, 2, 8)] * 3
    assert all(torch.equal(a, b) for a, b in zip(networks.online(views), online, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(networks.target(views), target, strict=True))


def test_views_have_their_own_numbers_of_boxes(pair: Pair, small_model: Model, make_views: Views) -> None:
    """V1 with a block of boxes for each pair: its embeddings are those of each block alone."""
    networks = pair(small_model()).eval()
    views = make_views(boxes=2, blocks=2)
    online, target = networks(views)
    assert [part.shape[1] for part in online] == [part.shape[1] for part in target] == [4, 2, 2]
    for block in (0, 1):
        own = slice(2 * block, 2 * block + 2)
        alone = ViewBatch(views[0].images, views[0].boxes[:, own], views[0].ids[:, own])
        for network, together in ((networks.online, online), (networks.target, target)):
            torch.testing.assert_close(network([alone])[0], together[0][:, own], atol=1e-5, rtol=1e-5)


def test_all_of_it_runs_in_float64(pair: Pair, small_model: Model, make_views: Views) -> None:
    networks = pair(small_model()).double()
    views = [ViewBatch(view.images.double(), view.boxes, view.ids) for view in make_views()]
    online, target = networks(views)
    assert {part.dtype for part in (*online, *target)} == {torch.float64}


def head_batches(networks: SoCo, views: list[ViewBatch]) -> tuple[list[int], list[int]]:
    """Regions in each call of the box head, and embeddings in each call of the predictor."""
    sizes: dict[str, list[int]] = {"head": [], "predictor": []}
    hooks = [
        networks.online.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: sizes[name].append(len(inputs[0]))
        )
        for name in sizes
    ]
    networks(views)
    for hook in hooks:
        hook.remove()
    return sizes["head"], sizes["predictor"]


@pytest.mark.parametrize(
    ("levels", "calls", "expected"),
    [
        ("own", "joint", [4 + 4 + 4]),
        ("own", "per-view", [4, 4, 4]),
        ("all", "joint", [4 * 12]),
        ("all", "per-view", [4] * 12),
    ],
)
def test_head_levels_and_calls_change_the_batch_statistics_only(
    levels: str, calls: str, expected: list[int], pair: Pair, small_model: Model, make_views: Views
) -> None:
    plain = pair(small_model())
    other = pair(small_model(head_levels=levels, head_calls=calls))
    views = make_views()
    for ours, theirs in zip(plain.eval()(views), other.eval()(views), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert head_batches(other.train(), views) == (expected, expected)
    plain.train()(views)
    key = "projector.1.running_mean"
    same = torch.allclose(plain.online.state_dict()[key], other.online.state_dict()[key], atol=1e-4)
    assert same == (levels == "own" and calls == "joint")


@pytest.fixture
def one_process() -> object:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head_levels": "all", "head_calls": "per-view"},
        {"scale_aware": False},
        {"scale_aware": False, "use_head": False, "single_level": "P3"},
        {"scale_aware": False, "use_head": False, "use_fpn": False},
        {"scale_aware": False, "use_head": False, "use_fpn": False, "backbone_level": "C4"},
        {"architecture": "c4", "roi_size": 14},
    ],
    ids=str,
)
@pytest.mark.usefixtures("one_process")
def test_distributed_training_finds_a_gradient_for_every_parameter(
    fields: dict[str, object], small_model: Model, make_views: Views
) -> None:
    """DistributedDataParallel refuses its second step if a parameter took no part in the first."""
    networks = SoCo(small_model(**fields))
    views = make_views()
    # All boxes on one level: the others' parameters must be reached all the same.
    views = [view._replace(boxes=torch.tensor([3.0, 4.0, 12.0, 13.0]).expand_as(view.boxes)) for view in views]
    wrapped = DistributedDataParallel(networks.online)
    for _ in range(2):
        with torch.no_grad():
            targets = networks.target(views)
        soco_loss(wrapped(views), targets, [view.ids for view in views])["loss"].backward()
        assert all(parameter.grad is not None for parameter in networks.online.parameters())
        networks.online.zero_grad(set_to_none=True)

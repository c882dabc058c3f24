"""Synchronised batch norm on a CPU against nn.BatchNorm on the concatenated batch, with uneven parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

from soco_core.engine.sync_batch_norm import CpuSyncBatchNorm, synchronise_batch_norm

PARTS = (5, 2, 0)
"""Rows of each process: uneven, and none."""
CHANNELS = 4


class Tiny(nn.Module):
    """Both kinds of batch norm, one of them in a child."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU())
        self.norm = nn.BatchNorm1d(CHANNELS, momentum=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(x).mean((2, 3)))


def make(dtype: torch.dtype) -> tuple[Tiny, Tensor, Tensor]:
    """The same network, images and gradients in every process."""
    generator = torch.Generator().manual_seed(3)
    network = Tiny().double()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
    images = torch.randn(sum(PARTS), 3, 7, 6, generator=generator, dtype=torch.float64) * 3 + 5
    gradients = torch.randn(sum(PARTS), CHANNELS, generator=generator, dtype=torch.float64)
    return network.to(dtype), images.to(dtype), gradients.to(dtype)


def train(network: nn.Module, images: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Two passes: outputs and input gradients of the second."""
    for _ in range(2):
        network.zero_grad()
        x = images.clone().requires_grad_()
        out = network(x)
        out.backward(gradients)
    assert x.grad is not None
    return out.detach(), x.grad


def work(rank: int, folder: str, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(PARTS))
    network, images, gradients = make(dtype)
    synchronise_batch_norm(network, torch.device("cpu"), dist.new_group(backend="gloo"))
    assert [type(m) for m in (network.body[1], network.norm)] == [CpuSyncBatchNorm] * 2
    own = slice(sum(PARTS[:rank]), sum(PARTS[: rank + 1]))
    out, input_gradient = train(network, images[own], gradients[own])
    grown = {name: p.grad for name, p in network.named_parameters()}
    state = network.state_dict()
    torch.save({"out": out, "input": input_gradient, "gradients": grown, "state": state}, f"{folder}/{rank}.pt")
    network.eval()
    torch.save(network(images[own]).detach(), f"{folder}/eval{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("dtype", "close"),
    [(torch.float64, {"rtol": 1e-11, "atol": 1e-12}), (torch.float32, {"rtol": 1e-4, "atol": 1e-4})],
    ids=["float64", "float32"],
)
def test_it_is_batch_norm_on_the_concatenated_batch(
    dtype: torch.dtype, close: dict[str, float], tmp_path: Path
) -> None:
    multiprocessing.spawn(work, (str(tmp_path), dtype), nprocs=len(PARTS))
    network, images, gradients = make(dtype)
    out, input_gradient = train(network, images, gradients)
    parts: list[dict[str, Any]] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(PARTS))]
    torch.testing.assert_close(torch.cat([part["out"] for part in parts]), out, **close)
    torch.testing.assert_close(torch.cat([part["input"] for part in parts]), input_gradient, **close)
    for name, parameter in network.named_parameters():
        whole = torch.stack([part["gradients"][name] for part in parts]).sum(0)
        torch.testing.assert_close(whole, parameter.grad, **close)
    for part in parts:
        assert part["state"].keys() == network.state_dict().keys()
        for name, value in network.state_dict().items():
            torch.testing.assert_close(part["state"][name], value, **close)
            assert torch.equal(part["state"][name], parts[0]["state"][name])
    network.eval()
    evaluated = torch.cat([torch.load(tmp_path / f"eval{rank}.pt") for rank in range(len(PARTS))])
    torch.testing.assert_close(evaluated, network(images).detach(), **close)


@pytest.fixture
def alone(tmp_path: Path) -> dist.ProcessGroup:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.new_group(backend="gloo")  # type: ignore[misc]
    dist.destroy_process_group()


def test_a_variance_far_below_the_mean_keeps_its_digits(alone: dist.ProcessGroup) -> None:
    """In float32 the mean of the squares (1e6) would lose a variance of 1e-2."""
    x = 1000 + 0.1 * torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    ours = CpuSyncBatchNorm.of(nn.BatchNorm1d(2), alone)(x)
    exact = nn.BatchNorm1d(2).double()(x.double())
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-3)


def test_half_precision_comes_out_as_it_went_in_and_is_computed_in_float32(alone: dist.ProcessGroup) -> None:
    norm = CpuSyncBatchNorm.of(nn.BatchNorm2d(3), alone)
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    out = norm(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    expected = nn.BatchNorm2d(3)
    expected(x.detach().float())
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    torch.testing.assert_close(norm.running_var, expected.running_var)


def test_a_cumulative_average_and_no_running_statistics(alone: dist.ProcessGroup) -> None:
    generator = torch.Generator().manual_seed(0)
    for settings in ({"momentum": None}, {"track_running_stats": False}, {"affine": False}):
        theirs = nn.BatchNorm1d(3, **settings)  # type: ignore[arg-type]
        ours = CpuSyncBatchNorm.of(nn.BatchNorm1d(3, **settings), alone)  # type: ignore[arg-type]
        for _ in range(3):
            x = torch.randn(6, 3, generator=generator)
            torch.testing.assert_close(ours(x), theirs(x))
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_single_value_has_no_variance(alone: dist.ProcessGroup) -> None:
    with pytest.raises(ValueError, match="more than one value a channel in all processes, got 1"):
        CpuSyncBatchNorm.of(nn.BatchNorm1d(3), alone)(torch.zeros(1, 3))

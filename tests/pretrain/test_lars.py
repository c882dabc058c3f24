"""LARS against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from soco_core.pretrain.lars import LARS

LR, MOMENTUM, DECAY, TRUST = 0.5, 0.9, 1e-2, 1e-3


def plain_step(p: np.ndarray, g: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if p.ndim > 1:
        g = g + DECAY * p
        p_norm, g_norm = np.sqrt((p**2).sum()), np.sqrt((g**2).sum())
        if p_norm > 0 and g_norm > 0:
            g = g * TRUST * p_norm / (g_norm + 1e-8)
    m = MOMENTUM * m + g
    return p - LR * m, m


def test_steps_equal_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (2, 3, 3, 3), (4,), (1, 5)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[3].zero_()  # no norm: no scaling, and with a zero gradient no division by zero
    parameters = [nn.Parameter(t.clone()) for t in tensors]
    optimizer = LARS(parameters, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, trust_coefficient=TRUST)
    expected = [t.numpy().copy() for t in tensors]
    buffers = [np.zeros_like(e) for e in expected]
    for step in range(5):
        for i, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * (step != 0 or i != 3)
            expected[i], buffers[i] = plain_step(expected[i], p.grad.numpy(), buffers[i])
        optimizer.step()
    for p, e in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=1e-12, atol=1e-15)


def test_one_step_by_hand() -> None:
    # |p| = 5, g + wd p = (3, 4) + 0.01 (3, 4) = 1.01 (3, 4), norm 5.05; scale 1e-3 * 5 / 5.05.
    p = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    p.grad = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    LARS([p], lr=LR, momentum=MOMENTUM, weight_decay=DECAY, trust_coefficient=TRUST).step()
    assert p.tolist()[0] == pytest.approx([3 - 0.5 * 1e-3 * 3, 4 - 0.5 * 1e-3 * 4], rel=1e-8)


def test_one_dimensional_tensors_are_neither_decayed_nor_scaled() -> None:
    p = nn.Parameter(torch.tensor([2.0, -1.0]))
    p.grad = torch.tensor([1.0, 0.5])
    LARS([p], lr=0.1, momentum=MOMENTUM, weight_decay=DECAY, trust_coefficient=TRUST).step()
    assert p.tolist() == pytest.approx([1.9, -1.05])


def test_state_goes_on_after_a_reload() -> None:
    def train(optimizer: LARS, p: nn.Parameter, steps: range) -> None:
        for step in steps:
            p.grad = torch.full_like(p, 0.1 * (step + 1))
            optimizer.step()

    def make() -> tuple[LARS, nn.Parameter]:
        p = nn.Parameter(torch.ones(2, 2))
        return LARS([p], lr=LR, momentum=MOMENTUM, weight_decay=DECAY, trust_coefficient=TRUST), p

    whole, p_whole = make()
    train(whole, p_whole, range(6))
    first, p_first = make()
    train(first, p_first, range(3))
    second, p_second = make()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        p_second.copy_(p_first)
    train(second, p_second, range(3, 6))
    assert torch.equal(p_whole, p_second)

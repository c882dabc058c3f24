"""LARS: layer-wise adaptive rate scaling around SGD with momentum (paper 4.1, its reference 39)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step for each weight tensor is scaled to the tensor's norm.

    For a tensor p with gradient g: g <- g + wd * p; g <- g * eta * |p| / (|g| + 1e-8) where both norms are
    positive; m <- momentum * m + g; p <- p - lr * m. One-dimensional tensors (biases, batch norm) get
    neither decay nor scaling.

    Args:
        parameters: the tensors to train.
        lr: learning rate; the training loop sets it for each step.
        momentum, weight_decay, trust_coefficient: as in :class:`soco_core.config.PretrainConfig`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
    ) -> None:
        tensors = list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in tensors if p.ndim > 1], "adapt": True},
            {"params": [p for p in tensors if p.ndim <= 1], "adapt": False},
        ]
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(group, parameters, [p.grad for p in parameters])

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if group["adapt"]:
            updates = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            weights, norms = torch._foreach_norm(parameters), torch._foreach_norm(updates)
            for update, p_norm, u_norm in zip(updates, weights, norms, strict=True):
                scaled = group["trust_coefficient"] * p_norm / (u_norm + EPSILON)
                update.mul_(torch.where((p_norm > 0) & (u_norm > 0), scaled, torch.ones_like(scaled)))
        else:
            updates = [gradient.clone() for gradient in gradients]
        for p, update in zip(parameters, updates, strict=True):
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(update)
        buffers = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(parameters, buffers, alpha=-group["lr"])

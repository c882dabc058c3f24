"""PreciseBN: batch-norm statistics of the final weights, over many training images (fvcore's method)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class _Moments:
    """Mean and mean square of a layer's input per channel, over all batches, each value weighted equally."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        if values.numel() == 0:
            return
        flat = values.detach().transpose(0, 1).flatten(1).double()
        count = flat.shape[1]
        self.count += count
        share = count / self.count
        self.mean = self.mean + (flat.mean(1) - self.mean) * share
        self.square = self.square + (flat.square().mean(1) - self.square) * share


@torch.no_grad()
def estimate_batch_norms(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics by the population mean and variance over `batches`.

    Each batch is the arguments of one forward pass in training mode. The weights do not change.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    moments = {layer: _Moments() for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        moments[layer].add(inputs[0])

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        model.train()
        for batch in batches:
            model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, found in moments.items():
        if found.count and isinstance(found.mean, torch.Tensor) and isinstance(found.square, torch.Tensor):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(found.mean)
            layer.running_var.copy_((found.square - found.mean.square()).clamp(min=0))

"""PreciseBN: batch-norm statistics of the final weights, over many training images (fvcore's method)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from soco_core.engine.distributed import Processes


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

    def sums(self, channels: int, device: torch.device) -> Tensor:
        """Sums of the values, of their squares, and their number; float64 [2 x channels + 1]."""
        sums = torch.zeros(2 * channels + 1, dtype=torch.float64, device=device)
        if self.count:
            sums[:channels] = self.mean * self.count
            sums[channels:-1] = self.square * self.count
            sums[-1] = self.count
        return sums


@torch.no_grad()
def estimate_batch_norms(model: nn.Module, batches: Iterable[Any], processes: Processes) -> None:
    """Replace the running statistics by the population mean and variance over `batches`.

    Each batch is the arguments of one forward pass in training mode. The weights do not change. Several processes get
    the statistics over the batches of all.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    moments = {layer: _Moments() for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
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
        assert layer.running_mean is not None
        assert layer.running_var is not None
        sums = found.sums(layer.num_features, layer.running_mean.device)
        if processes.count > 1:
            dist.all_reduce(sums)
        if sums[-1]:
            mean, square = (sums[:-1] / sums[-1]).chunk(2)
            layer.running_mean.copy_(mean)
            layer.running_var.copy_((square - mean.square()).clamp(min=0))

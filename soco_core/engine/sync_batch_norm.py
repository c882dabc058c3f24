"""Batch norm over the batches of all processes: torch's own on GPUs, this module's on CPUs (paper 4.1).

torch's SyncBatchNorm works on GPUs only. The one here computes the same anywhere, so that what several
processes compute together can be tested against one process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batch_norm(module: nn.Module, device: torch.device, group: dist.ProcessGroup | None) -> None:
    """Replace every batch norm in a module by one that sees the batches of all processes.

    Parameters, buffers and their names stay. Processes may bring different numbers of rows.

    Args:
        module: the module, changed in place.
        device: where it computes.
        group: of the CPU's batch norm; its own, so that no other collective comes in between. On a GPU the default
            group serves.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, CpuSyncBatchNorm.of(child, group))
        else:
            synchronise_batch_norm(child, device, group)


class CpuSyncBatchNorm(_BatchNorm):
    """Batch norm of [N, C, ...] whose statistics in training are those of the rows of all processes.

    Outputs, gradients and running statistics are those of ``nn.BatchNorm`` on the concatenated batch. A
    gradient of weight or bias is this process's part of it: the parts of all processes add up to the whole.
    """

    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, norm: _BatchNorm, group: dist.ProcessGroup | None) -> CpuSyncBatchNorm:
        """Take over the parameters, buffers and settings of a batch norm."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        made.training, made.group = norm.training, group
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, ...] of any floating type; half precision is computed in float32."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        wide = x if x.dtype == torch.float64 else x.float()
        mean, variance, count = _global_moments(wide.detach(), self.group)
        if count <= 1:
            raise ValueError(f"batch norm needs more than one value a channel in all processes, got {count}")
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        scale = torch.rsqrt(variance + self.eps).to(wide.dtype)
        normalised: Tensor = _Normalise.apply(wide, mean.to(wide.dtype), scale, count, self.group)
        if self.affine:
            normalised = normalised * _per_channel(self.weight, wide) + _per_channel(self.bias, wide)
        return normalised.to(x.dtype)


def _global_moments(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over all processes, float64 [C], and how many values they are of.

    Sums of squares are made of each process's own variance and added in float64: of float32 values they would
    lose the digits that the variance is made of.
    """
    channels = x.shape[1]
    count = x.numel() // channels
    dims = [0, *range(2, x.ndim)]
    sums = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    if count:
        variance, mean = (moment.double() for moment in torch.var_mean(x, dims, correction=0))
        sums[:channels] = mean * count
        sums[channels:-1] = (variance + mean.square()) * count
        sums[-1] = count
    dist.all_reduce(sums, group=group)
    total = sums[-1]
    mean = sums[:channels] / total
    return mean, (sums[channels:-1] / total - mean.square()).clamp(min=0), int(total)


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale, where mean and scale follow the values of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, count: int, group: dist.ProcessGroup | None
    ) -> Tensor:
        normalised = (x - _per_channel(mean, x)) * _per_channel(scale, x)
        ctx.save_for_backward(normalised, scale)
        ctx.count, ctx.group = count, group
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """dx = scale * (dy - mean(dy) - y * mean(dy * y)), the means over all processes."""
        (gradient,) = gradients
        normalised, scale = ctx.saved_tensors
        dims = [0, *range(2, gradient.ndim)]
        sums = torch.stack([gradient.sum(dims), (gradient * normalised).sum(dims)]).double()
        dist.all_reduce(sums, group=ctx.group)
        mean, slope = (sums / ctx.count).to(gradient.dtype)
        centred = gradient - _per_channel(mean, gradient) - normalised * _per_channel(slope, gradient)
        return centred * _per_channel(scale, gradient), None, None, None, None


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Shape [C] to broadcast over [N, C, ...]."""
    return values.view(1, -1, *[1] * (like.ndim - 2))

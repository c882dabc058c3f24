"""What processes send each other on the CPU, so that a signal is noted while they wait."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

SLICE = timedelta(seconds=1)
"""Python hears of a signal between such slices of a wait."""


class _Place(NamedTuple):
    """Where a tensor stands in a value, while it is sent apart."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def wait(work: dist.Work | None) -> None:
    """Wait for a collective that was begun with ``async_op=True``."""
    assert work is not None
    while True:
        try:
            work.wait(SLICE)
            return
        except RuntimeError:
            if work.is_completed():  # else only the slice is over
                work.wait()  # raises what went wrong, unless it was just done
                return


def broadcast(value: Any, first: bool, group: dist.ProcessGroup | None) -> Any:
    """Return the first process's value in all of them.

    Tensors go one by one, so that nobody holds a state more than once.

    Args:
        value: plain types, dicts, lists, tuples and CPU tensors; the first process's counts.
        first: whether this is that process.
        group: a group of gloo.
    """
    tensors: list[Tensor] = []
    data = bytearray(pickle.dumps(_without_tensors(value, tensors))) if first else bytearray()
    size = torch.tensor([len(data)])
    wait(dist.broadcast(size, src=0, group=group, async_op=True))
    received = torch.frombuffer(data if first else bytearray(int(size)), dtype=torch.uint8)
    wait(dist.broadcast(received, src=0, group=group, async_op=True))
    if first:
        for tensor in tensors:
            wait(dist.broadcast(_flat(tensor), src=0, group=group, async_op=True))
        return value
    return _with_tensors(pickle.loads(received.numpy().data), group)


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """Copy a value with a place for each tensor, which is added to `tensors`."""
    if isinstance(value, Tensor):
        dense = value.is_contiguous() or (value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last))
        tensors.append(value if dense else value.contiguous())
        return _Place(value.dtype, tuple(value.shape), tensors[-1].stride())
    if type(value) is dict:
        return {key: _without_tensors(item, tensors) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_tensors(item, tensors) for item in value)
    return value


def _with_tensors(value: Any, group: dist.ProcessGroup | None) -> Any:
    """Receive the tensors of a value, in the order of their places."""
    if isinstance(value, _Place):
        tensor = torch.empty_strided(value.shape, value.stride, dtype=value.dtype)
        wait(dist.broadcast(_flat(tensor), src=0, group=group, async_op=True))
        return tensor
    if type(value) is dict:
        return {key: _with_tensors(item, group) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_tensors(item, group) for item in value)
    return value


def _flat(tensor: Tensor) -> Tensor:
    """A dense tensor's elements as they lie in memory, bytes [numel * itemsize]; the tensor's own memory."""
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8)

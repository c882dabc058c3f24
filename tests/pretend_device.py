"""A device with a memory of its own, computed by the CPU: it tells what would fail only on a GPU.

Its tensors cannot be read by NumPy, nor be mixed with those of the CPU, and it counts how often their values are asked
for. Two kinds:

- ``meta``: everything works, backward passes included, so that whole trainings can be compared with the CPU's.
- ``cuda``: takes each way that is taken for GPUs alone, with CUDA's rules of mixed precision. Without a driver torch
  has no backward pass for it; every parameter that a loss reaches gets a gradient of one value instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

MIXED = {
    "aten.copy_",
    "aten._foreach_copy_",
    "aten.index",
    "aten.index_put",
    "aten.index_put_",
    "aten._index_put_impl_",
}
"""What takes tensors of both memories on a GPU too: transfers, and indices from the CPU."""
QUESTIONS = {"aten._local_scalar_dense", "aten.nonzero"}
GRADIENT = 1e-3


class ThereTensor(torch.Tensor):
    """A tensor in the other memory; `inner` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> ThereTensor:
        made: ThereTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"ThereTensor({self.inner!r})"

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["inner"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], device: torch.device, size: Any, stride: Any) -> ThereTensor:
        return ThereTensor(inner["inner"], device)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of a device to numpy; use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        Seen.asked += 1
        return self.inner.tolist()


class Seen:
    """What was computed on the device."""

    asked = 0
    """How often the host waited for a value."""
    convolved: ClassVar[set[torch.dtype]] = set()
    """In which types."""


class PretendMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = _pytree.tree_leaves((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, ThereTensor)]
    here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, ThereTensor)]
    device = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    name = str(func.overloadpacket)
    if name == "aten._has_compatible_shallow_copy_type":
        return False
    if there and any(tensor.dim() for tensor in here) and name not in MIXED:
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (here, there)]
        raise RuntimeError(f"{name}: tensors on two devices: on the CPU {shapes[0]}, on the other {shapes[1]}")
    Seen.asked += bool(there) and name in QUESTIONS
    if there and name == "aten.convolution":
        Seen.convolved.add(args[0].dtype)

    result = _on_the_cpu(func, name, *_pytree.tree_map(_inner, (args, kwargs)))
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)
        return args[0]
    target = device or (there[0].device if there else None)
    if name == "aten.copy_":
        target = args[0].device
    if target is None or target.type == "cpu":
        return result
    changed = {id(tensor.inner): tensor for tensor in there}
    return _pytree.tree_map_only(
        Tensor, lambda made: changed[id(made)] if id(made) in changed else ThereTensor(made, target), result
    )


def _inner(value: Any) -> Any:
    if isinstance(value, ThereTensor):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _on_the_cpu(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    if name == "aten.cudnn_batch_norm":
        return *torch.ops.aten.native_batch_norm(*args), torch.empty(0, dtype=torch.uint8)
    return func(*args, **kwargs)


def _sending(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch fills a new tensor before any mode sees it."""

    def send(data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **others: Any) -> Tensor:
        if device is None or torch.device(device).type == "cpu":
            return make(data, dtype=dtype, device=device, **others)
        return make(data, dtype=dtype, **others).to(device)

    return send


def _backward(loss: Tensor, *_: Any, **__: Any) -> None:
    assert isinstance(loss, ThereTensor)
    left, seen = [loss.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            variable = node.variable
            gradient = torch.full_like(variable, GRADIENT, requires_grad=False)
            variable.grad = gradient if variable.grad is None else variable.grad + gradient


@contextmanager
def pretend_device(
    kind: Literal["meta", "cuda"], patch: pytest.MonkeyPatch, capability: tuple[int, int] = (7, 0)
) -> Iterator[torch.device]:
    """Let every process choose the pretended device.

    Args:
        kind: see above.
        patch: undone by the test.
        capability: of the GPU; a V100's.
    """
    device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    patch.setattr("soco_core.engine.distributed.choose_device", lambda _: device)
    patch.setattr(torch, "tensor", _sending(torch.tensor))
    patch.setattr(torch, "as_tensor", _sending(torch.as_tensor))
    if kind == "cuda":
        torch._C._ensureCUDADeviceGuardSet()
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "set_device", lambda _: None)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr(torch.Tensor, "backward", _backward)
    Seen.asked = 0
    Seen.convolved.clear()
    with PretendMode():
        yield device

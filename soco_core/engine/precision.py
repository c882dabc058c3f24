"""Mixed precision: which one a device has, and what goes with it (paper 4.1 trained on V100s)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from soco_core.engine.distributed import Processes
from soco_core.errors import SocoError

Name = Literal["fp32", "bf16", "fp16"]

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NATIVE_BF16 = (8, 0)
"""Compute capability from which a GPU computes in bf16 itself; a V100 has 7.0."""


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device, field: str = "runtime.precision"
) -> Name:
    """Return the precision of the networks.

    Args:
        wanted: that field of the recipe. `auto`: bf16 on a GPU that has it natively, fp16 on an older
            one, fp32 on a CPU.
        device: where the networks are.
        field: of the recipe, for what is said.

    Raises:
        SocoError: the device cannot do what is asked for.
    """
    if device.type != "cuda":
        if wanted == "fp16":
            raise SocoError(f"{field}: fp16 needs a GPU; on a CPU set fp32 or bf16")
        return "fp32" if wanted == "auto" else wanted
    capability = torch.cuda.get_device_capability(device)
    native = capability >= NATIVE_BF16
    if wanted == "bf16" and not native:
        raise SocoError(
            f"{field}: bf16 needs a GPU of compute capability {NATIVE_BF16[0]}.{NATIVE_BF16[1]}, and "
            f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}; set auto or fp16"
        )
    if wanted == "auto":
        return "bf16" if native else "fp16"
    return wanted


def same_precision(name: Name, processes: Processes, field: str = "runtime.precision") -> None:
    """Refuse, in all processes, to train with GPUs that `auto` gives different precisions.

    Raises:
        SocoError: this process's precision, or another one's, is not the first one's.
    """
    first = processes.share(name)
    differs = SocoError(f"{field}: auto is {first} on one GPU and {name} on another; set fp16")
    processes.agree(differs if first != name else None)


class Precision:
    """Casts the networks' forward passes, and scales the loss where float16 gradients would vanish.

    Args:
        name: as of :func:`choose_precision`.
        device: where the networks are.
    """

    def __init__(self, name: Name, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        """Scales the loss with fp16; hands everything through otherwise."""
        self.used: list[str] = [name]
        """All precisions that the training was computed in, one after another."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass; parameters, optimiser and batch-norm statistics stay in float32."""
        return torch.autocast(self.device.type, TYPES[self.name], enabled=self.name != "fp32")

    def go_on(self, scaler: dict[str, Any], used: Sequence[str] = ()) -> None:
        """Go on from where another attempt stopped, which may have had another precision.

        Args:
            scaler: state of that one's scaler; empty where it had none.
            used: its :attr:`used`.
        """
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.used = [*used, *([] if used and used[-1] == self.name else [self.name])]

    @property
    def skips(self) -> bool:
        """Whether steps whose gradients overflow are left out, and tried with a smaller scale."""
        return self.scaler.is_enabled()

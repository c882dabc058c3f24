"""The real GPU of the tests marked `gpu`, which `pytest -m gpu` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from soco_core.engine.precision import Precision


def require_gpu() -> torch.device:
    """Skip where there is none; SOCO_REQUIRE_GPU makes that a failure."""
    if not torch.cuda.is_available():
        reason = "torch finds no GPU here (pytest hides them unless `-m gpu` asks for these tests)"
        if os.environ.get("SOCO_REQUIRE_GPU"):
            pytest.fail(reason)
        pytest.skip(reason)
    return torch.device("cuda", 0)


@contextmanager
def computing_on(device: torch.device, patch: pytest.MonkeyPatch, exact: bool = False) -> Iterator[None]:
    """Let every process choose a device, and draw there what the CPU would draw.

    Args:
        device: where trainings compute.
        patch: undone at the end.
        exact: in float32 throughout, also where the recipe's precision, or a GPU's own, is a lower one.
    """
    with patch.context() as mine:
        mine.setattr("soco_core.engine.distributed.choose_device", lambda _: device)
        mine.setattr(torch, "randperm", _drawn_on_the_cpu(torch.randperm))
        if exact:
            mine.setattr(Precision, "autocast", lambda _: nullcontext())
            mine.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


def _drawn_on_the_cpu(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def draw_here(n: int, *, device: Any = None, **others: Any) -> torch.Tensor:
        return draw(n, **others).to(device)

    return draw_here

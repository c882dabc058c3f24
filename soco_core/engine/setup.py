"""Device, threads and seeds of a training process."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from soco_core.errors import SocoError

if TYPE_CHECKING:
    import torch


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to train on: the GPU of this process's number among those of its node, the first one alone.

    Raises:
        SocoError: `cuda` is asked for on a machine without a usable GPU, or there are fewer than processes.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise SocoError("runtime.device: cuda is asked for, but no usable GPU was found; run `soco doctor`")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device(wanted)
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise SocoError(
            f"process {number} of this node has no GPU of its own, there are {torch.cuda.device_count()}; start as "
            f"many processes: torchrun --nproc-per-node {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; training draws its own randomness from per-item generators.

    On a CPU the same seed and inputs then give the same outputs. On a GPU some kernels (RoIAlign's
    backward pass among them) add in an order that is not fixed, so runs agree only approximately.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores this process may use, at least 1.

    A container's CPU limit is a quota of its control group (version 1 or 2), rounded up to whole cores.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of this process's control groups and of all groups above them."""
    for line in _words(root / "proc" / "self" / "cgroup", "\n"):
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Inside a container the group's own directory is often mounted as the top one; the path then leads nowhere.
        path = PurePosixPath(group.lstrip("/"))
        for above in (path, *path.parents):
            if controllers:
                folder = root / "sys" / "fs" / "cgroup" / "cpu" / above
                quota = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
            else:
                quota = _words(root / "sys" / "fs" / "cgroup" / above / "cpu.max")
            with suppress(ValueError, ZeroDivisionError):  # "max", or a file that is not there
                allowed, period = map(int, quota)
                if allowed > 0:  # version 1 writes -1 for no limit
                    yield allowed / period


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text().strip().split(separator)
    except OSError:
        return []


def share_cores() -> None:
    """Let idle OpenMP threads spin briefly, then sleep; call it before torch is imported.

    By default they spin for milliseconds and keep their core from the data loader or another training.
    Measured with two threads (benchmarks/RESULTS.md): beside one busy process a pretraining step takes
    3.7 times as long instead of 2 to 12 times, varying from step to step; alone it is as fast as before.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

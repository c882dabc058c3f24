"""One pretraining step of SoCo-R50-FPN: ours beside the structure of the authors' code, in turn, as a ratio.

    python benchmarks/pretrain_step.py --batch-size 4 --rounds 3 --precisions fp32

The authors' code runs the box head on every box at all four levels and masks the loss (model.head_levels `all`,
model.head_calls `per-view`); by default a box is pooled and encoded at its own level only. Both use the same
views and optimiser. On a GPU convolutions in fp32 take TF32 where the GPU has it, as in training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from soco_core.config import ModelConfig, ViewsConfig
from soco_core.engine.precision import TYPES, Name, Precision
from soco_core.models.soco import SoCo, ViewBatch
from soco_core.pretrain.lars import LARS
from soco_core.pretrain.loss import soco_loss

GIB = 2**30
OWN, ALL = "own level", "all levels (authors)"
MODELS = {OWN: ModelConfig(), ALL: ModelConfig(head_levels="all", head_calls="per-view")}
Step = Callable[[], float]


def make_views(batch_size: int, device: torch.device) -> list[ViewBatch]:
    """Random images with boxes of 30 to 80 % of the view, as the filter keeps them (3.2)."""
    generator = torch.Generator().manual_seed(0)
    sizes, views = ViewsConfig(), []
    for side in (sizes.size, sizes.size, sizes.small_size):
        extent = side * (0.3 + 0.5 * torch.rand(batch_size, 4, 2, generator=generator))
        corner = (side - extent) * torch.rand(batch_size, 4, 2, generator=generator)
        images = torch.randn(batch_size, 3, side, side, generator=generator).to(device)
        boxes = torch.cat([corner, corner + extent], -1)
        ids = torch.arange(4, device=device).expand(batch_size, -1)
        views.append(ViewBatch(images.contiguous(memory_format=torch.channels_last), boxes, ids))
    return views


def make_step(networks: SoCo, views: list[ViewBatch], precision: Precision) -> Step:
    optimizer = LARS(networks.online.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-5, trust_coefficient=1e-3)
    ids, scaler = [view.ids for view in views], precision.scaler

    def step() -> float:
        began = time.perf_counter()
        networks.update_target(0.99)
        with precision.autocast():
            predictions, targets = networks(views)
        loss = soco_loss(predictions, targets, ids)["loss"]
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if views[0].images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step


def compare(name: Name, views: list[ViewBatch], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds of a step of each model, and the memory in GiB that its first ones took on a GPU."""
    device = views[0].images.device
    steps, memory = {}, {}
    for label, model in MODELS.items():
        torch.manual_seed(0)
        networks = SoCo(model).to(device)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps[label] = make_step(networks, views, Precision(name, device))
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):  # warms up
            steps[label]()
        memory[label] = (torch.cuda.max_memory_allocated() - before) / GIB if device.type == "cuda" else 0.0
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(rounds):
        for label, step in steps.items():
            seconds[label].append(step())
    return {label: statistics.median(taken) for label, taken in seconds.items()}, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=TYPES, default=["fp32"])
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, batch {options.batch_size}, median of {options.rounds}\n")
    print(f"| precision | {OWN}, s | {ALL}, s | times as fast | images/s | GiB | GiB (authors) |")
    print("|---|---|---|---|---|---|---|")
    views = make_views(options.batch_size, device)
    for name in options.precisions:
        seconds, memory = compare(name, views, options.rounds)
        print(
            f"| {name} | {seconds[OWN]:.3f} | {seconds[ALL]:.3f} | {seconds[ALL] / seconds[OWN]:.2f} | "
            f"{options.batch_size / seconds[OWN]:.0f} | {memory[OWN]:.1f} | {memory[ALL]:.1f} |"
        )


if __name__ == "__main__":
    main()

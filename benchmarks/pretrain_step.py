"""One pretraining step of SoCo-R50-FPN: ours beside the structure of the authors' code, in turn, as a ratio.

    python benchmarks/pretrain_step.py --batch-size 4 --rounds 3

The authors' code runs the box head on every box at all four levels and masks the loss (model.head_levels `all`,
model.head_calls `per-view`); by default a box is pooled and encoded at its own level only. Both use the same
views and optimiser.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from soco_core.config import ModelConfig, ViewsConfig
from soco_core.models.soco import SoCo, ViewBatch
from soco_core.pretrain.lars import LARS
from soco_core.pretrain.loss import soco_loss

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


def make_step(networks: SoCo, views: list[ViewBatch]) -> Step:
    optimizer = LARS(networks.online.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-5, trust_coefficient=1e-3)
    ids = [view.ids for view in views]

    def step() -> float:
        began = time.perf_counter()
        networks.update_target(0.99)
        loss = soco_loss(*networks(views), ids)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if views[0].images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = make_views(options.batch_size, device)
    steps = {}
    authors = ModelConfig(head_levels="all", head_calls="per-view")
    for name, model in (("own level", ModelConfig()), ("all levels (authors)", authors)):
        torch.manual_seed(0)
        networks = SoCo(model).to(device)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps[name] = make_step(networks, views)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(options.rounds + 1):
        for name, step in steps.items():
            taken = step()
            if round_number:  # the first warms up
                seconds[name].append(taken)
    ours, theirs = (statistics.median(seconds[name]) for name in steps)
    print(f"{device}, {torch.get_num_threads()} threads, batch {options.batch_size}, median of {options.rounds}")
    print(f"own level {ours:.2f} s, all levels (authors) {theirs:.2f} s: {theirs / ours:.2f} times as fast")


if __name__ == "__main__":
    main()

"""Whole trainings as users run them, from image files to steps: images a second, and the GPU's memory.

    python benchmarks/training_speed.py pretrain --images imagenet-sample --batch-size 256 --steps 30 --workers 2 8 16
    python benchmarks/training_speed.py finetune --engines torchvision detectron2 --steps 30

Pretraining reads each file of a folder as often as its steps need; its boxes are random, so that no search comes
first. Finetuning has rendered scenes, enlarged to the benchmark's sizes. The speed is that of the second half of the
steps. `--set` changes the recipe, as of `soco`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import ResultDirectory
from soco_core.demo_data.stage import demo_data
from soco_core.detection.stage import finetune
from soco_core.engine.records import METRICS, SPEED
from soco_core.engine.setup import usable_cores
from soco_core.pretrain.stage import pretrain
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe

GIB = 2**30
IMAGENET = 1_281_167


def repeat_files(images: Path, folder: Path, count: int) -> None:
    """Link `count` images into a new folder, each file of `images` as often as needed."""
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    folder.mkdir()
    for number in range(count):
        file = files[number % len(files)]
        os.symlink(file.resolve(), folder / f"{number:06d}{file.suffix}")


def speed_of(result: ResultDirectory) -> float:
    """Images a second over the second half of the steps."""
    speeds = [entry["images_per_second"] for entry in read_metrics(result.path / SPEED)]
    return statistics.harmonic_mean(speeds[len(speeds) // 2 :])  # each step has as many images


def measure(label: str, train: Callable[[], ResultDirectory]) -> None:
    """Print a row; the hours are those of 100 epochs of ImageNet at that speed."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    result = train()
    seconds, speed = time.monotonic() - began, speed_of(result)
    memory = f"{torch.cuda.max_memory_allocated() / GIB:.1f}" if on_gpu else "-"
    losses = [entry["loss"] for entry in read_metrics(result.path / METRICS)]
    hours = f"{100 * IMAGENET / speed / 3600:.0f}" if result.stage == "pretrain" else "-"
    cells = [f"{label}, {result.summary['precision']}", f"{speed:.1f}", memory, f"{losses[0]:.2f}", f"{losses[-1]:.2f}"]
    print("| " + " | ".join([*cells, f"{seconds:.0f}", hours]) + " |", flush=True)


def measure_pretraining(options: argparse.Namespace, folder: Path) -> None:
    repeat_files(options.images, folder / "images", options.batch_size * options.steps)
    fields = [f"pretrain.batch_size={options.batch_size}", "pretrain.epochs=1", "pretrain.warmup_epochs=0.5"]
    fields += ["proposals.engine=random", "images.fingerprint=sizes"]
    for name in options.recipes:
        recipe = load_recipe(name, [*fields, *options.overrides])
        boxes = propose(recipe, images=str(folder / "images"), output=str(folder / name)).uri
        for workers in options.workers:
            recipe = load_recipe(name, [*fields, f"runtime.workers={workers}", *options.overrides])
            output = str(folder / f"{name}-{workers}")
            measure(f"{name}, {workers} workers", partial(pretrain, recipe, proposals=boxes, output=output))


def measure_finetuning(options: argparse.Namespace, folder: Path) -> None:
    size = ["demo_data.train_images=32", "demo_data.val_images=2", "demo_data.unlabelled_images=1"]
    data = str(demo_data(load_recipe("demo", [*size, "demo_data.image_size=640"]), output=str(folder)).path)
    fields = [f"finetune.iterations={options.steps}", "finetune.warmup_iterations=0", "finetune.learning_rate=0.001"]
    fields += ["finetune.precise_bn_images=16", f"runtime.workers={options.workers[0]}"]
    for detector in options.detectors:
        for engine in options.engines:
            chosen = [f"finetune.engine={engine}", f"finetune.detector={detector}"]
            recipe = load_recipe("soco-fpn-100ep", [*fields, *chosen, *options.overrides])
            output = str(folder / f"{detector}-{engine}")
            measure(f"{detector}, {engine}", partial(finetune, recipe, coco=data, init="scratch", output=output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("training", choices=["pretrain", "finetune"])
    parser.add_argument("--images", type=Path, help="a folder of image files, for pretrain")
    parser.add_argument("--recipes", nargs="+", default=["soco-fpn-100ep"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--engines", nargs="+", default=["torchvision"])
    parser.add_argument("--detectors", nargs="+", default=["mask-rcnn-fpn"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    if options.training == "pretrain" and options.images is None:
        parser.error("--images is missing")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{where}, {usable_cores()} cores\n")
    print("| | images/s | GPU's GiB | first loss | last loss | seconds in all | 100 epochs, h |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        (measure_pretraining if options.training == "pretrain" else measure_finetuning)(options, Path(folder))


if __name__ == "__main__":
    main()

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
import tempfile
import time
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
    spent = [entry["seconds_per_step"] for entry in read_metrics(result.path / SPEED)]
    half = spent[len(spent) // 2 :]
    images = float(read_metrics(result.path / SPEED)[-1]["images_per_second"] * spent[-1])
    return images * len(half) / sum(half)


def row(label: str, result: ResultDirectory, began: float) -> str:
    losses = [entry["loss"] for entry in read_metrics(result.path / METRICS)]
    memory = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0
    return (
        f"| {label} | {speed_of(result):.1f} | {memory:.1f} | {losses[0]:.2f} | {losses[-1]:.2f} | "
        f"{time.monotonic() - began:.0f} |"
    )


def measure_pretraining(options: argparse.Namespace, folder: Path) -> None:
    count = options.batch_size * options.steps
    repeat_files(options.images, folder / "images", count)
    for name in options.recipes:
        common = [f"pretrain.batch_size={options.batch_size}", "pretrain.epochs=1", "pretrain.warmup_epochs=0.5"]
        search = ["proposals.engine=random", "images.fingerprint=sizes"]
        recipe = load_recipe(name, [*common, *search, *options.overrides])
        boxes = propose(recipe, images=str(folder / "images"), output=str(folder / name)).uri
        for workers in options.workers:
            recipe = load_recipe(name, [*common, *search, f"runtime.workers={workers}", *options.overrides])
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            began = time.monotonic()
            result = pretrain(recipe, proposals=boxes, output=str(folder / f"{name}-{workers}"))
            how = f"{name}, {result.summary['precision']}, {workers} workers"
            print(row(how, result, began), f"{100 * IMAGENET / speed_of(result) / 3600:.0f} h |", flush=True)


def measure_finetuning(options: argparse.Namespace, folder: Path) -> None:
    size = ["demo_data.train_images=32", "demo_data.val_images=2", "demo_data.unlabelled_images=1"]
    data = str(demo_data(load_recipe("demo", [*size, "demo_data.image_size=640"]), output=str(folder)).path)
    for detector in options.detectors:
        for engine in options.engines:
            fields = [
                f"finetune.iterations={options.steps}",
                "finetune.warmup_iterations=0",
                "finetune.learning_rate=0.001",
            ]
            fields += ["finetune.precise_bn_images=16"]
            fields += [
                f"finetune.engine={engine}",
                f"finetune.detector={detector}",
                f"runtime.workers={options.workers[0]}",
            ]
            recipe = load_recipe("soco-fpn-100ep", [*fields, *options.overrides])
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            began = time.monotonic()
            result = finetune(recipe, coco=data, init="scratch", output=str(folder / f"{detector}-{engine}"))
            print(row(f"{detector}, {engine}, {result.summary['precision']}", result, began), "|", flush=True)


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
    print(f"{where}, {usable_cores()} cores\n\n| | images/s | GPU's GiB | first loss | last loss | seconds in all |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        (measure_pretraining if options.training == "pretrain" else measure_finetuning)(options, Path(folder))


if __name__ == "__main__":
    main()

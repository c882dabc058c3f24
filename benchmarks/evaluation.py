"""The evaluator beside pycocotools: boxes of as many images and detections as COCO's val2017 has, made up.

    python benchmarks/evaluation.py --images 5000 --rounds 3

Both get the same truth and the same predictions as lists in memory and return COCO's twelve numbers of boxes, which
must be equal. They take turns, each time in a fresh process; the seconds leave out making the data and importing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from soco_core.datasets.split import LabelledSplit

IMAGES, CATEGORIES = 5000, 80
OBJECTS, DETECTIONS = 7, 100
WIDTH, HEIGHT = 640, 480
MIB = 2**20
SPAWNED = multiprocessing.get_context("spawn")

Predictions = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One evaluation in a process of its own."""

    seconds: float
    """Wall time."""
    cpu_seconds: float
    before_bytes: int
    """Greatest resident memory up to the evaluation: the interpreter and the data."""
    peak_bytes: int
    """Greatest resident memory in all."""
    numbers: list[float]
    """COCO's twelve, in percent."""


def made_up(images: int) -> tuple[LabelledSplit, Predictions]:
    """Return a truth and predictions: half of them near an object of their category, half anywhere."""
    generator = np.random.default_rng(0)
    sides = np.array([WIDTH, HEIGHT])
    extent = sides * np.exp(generator.uniform(np.log(0.02), np.log(0.7), (images, OBJECTS, 2)))
    truth = np.concatenate([generator.random((images, OBJECTS, 2)) * (sides - extent), extent], axis=-1)
    classes = generator.integers(1, CATEGORIES + 1, (images, OBJECTS))
    chosen = generator.integers(0, OBJECTS, (images, DETECTIONS))
    rows = np.arange(images)[:, None]
    boxes, labels = truth[rows, chosen], classes[rows, chosen]
    boxes = boxes + generator.normal(0, 0.1, boxes.shape) * np.tile(boxes[..., 2:], 2)
    boxes[..., 2:] = np.maximum(boxes[..., 2:], 1)
    anywhere = generator.random((images, DETECTIONS)) < 0.5
    labels = np.where(anywhere, generator.integers(1, CATEGORIES + 1, labels.shape), labels)
    scores = generator.random((images, DETECTIONS))
    annotations = [
        {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "difficult": 0}
        for image, (names, found) in enumerate(zip(classes.tolist(), truth.tolist(), strict=True), 1)
        for category, box in zip(names, found, strict=True)
    ]
    split = LabelledSplit(
        format="coco",
        annotation_file="",
        digest="",
        images=[{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(1, images + 1)],
        annotations=[{"id": number, **item} for number, item in enumerate(annotations, 1)],
        categories=[{"id": number, "name": str(number)} for number in range(1, CATEGORIES + 1)],
        folder="",
        sizes=(1,) * images,
    )
    predictions = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, columns in enumerate(zip(labels.tolist(), boxes.tolist(), scores.tolist(), strict=True), 1)
        for category, box, score in zip(*columns, strict=True)
    ]
    return split, predictions


def by_soco(split: LabelledSplit, predictions: Predictions) -> list[float]:
    from soco_core.evaluation import evaluate

    values = evaluate(split, predictions, masks=False).details["boxes"].values()
    return [-100.0 if value is None else value for value in values]


def by_pycocotools(split: LabelledSplit, predictions: Predictions) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = split.as_coco()
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(predictions), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats]


def measure(way: Callable[[LabelledSplit, Predictions], list[float]], images: int) -> Run:
    """Evaluate in a fresh process."""
    here, there = SPAWNED.Pipe()
    process = SPAWNED.Process(target=_measure, args=(there, way, images), daemon=True)
    process.start()
    there.close()
    run: Run = here.recv()
    process.join()
    return run


def _measure(end: Connection, way: Callable[[LabelledSplit, Predictions], list[float]], images: int) -> None:
    way(*made_up(2))  # imports what it needs
    data = made_up(images)
    before = _peak()
    began, cpu_began = time.perf_counter(), time.process_time()
    numbers = way(*data)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    end.send(Run(seconds, cpu_seconds, before, _peak(), numbers))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways = {"soco_core.evaluation": by_soco, "pycocotools": by_pycocotools}
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            runs[name].append(measure(way, options.images))
    ours, theirs = ([run.numbers for run in runs[name]] for name in ways)
    apart = float(np.abs(np.array(ours) - np.array(theirs)).max())
    print(f"{options.images:,} images x {DETECTIONS} detections, {CATEGORIES} categories, {OBJECTS} objects an image;")
    print(f"median of {options.rounds}; the twelve numbers differ by {apart:.1e} at most (box AP {ours[0][0]:.3f})")
    print("| | seconds | CPU seconds | times as fast (CPU) | data, MiB | peak, MiB | added, MiB |")
    print("|---|---|---|---|---|---|---|")
    slowest = statistics.median(run.cpu_seconds for run in runs["pycocotools"])
    for name, mine in runs.items():
        seconds, cpu = (statistics.median(getattr(run, key) for run in mine) for key in ("seconds", "cpu_seconds"))
        before, peak = (max(getattr(run, key) for run in mine) / MIB for key in ("before_bytes", "peak_bytes"))
        memory = f"{before:.0f} | {peak:.0f} | {peak - before:.0f}"
        print(f"| `{name}` | {seconds:.1f} | {cpu:.1f} | {slowest / cpu:.1f} | {memory} |")


if __name__ == "__main__":
    main()

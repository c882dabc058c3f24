"""Selective search: what each engine costs, what it finds, how it scales, and what the cap on the long side loses.

    python benchmarks/proposals.py [FOLDER] --images-count 100

All run in turn on each image, on one thread: the engines in a process set up as the stage's workers are, the package
as its users run it, in a process of its own, and once more in that of the engines. Times are those of the CPU. Prints
Markdown for RESULTS.md. Needs the pure-Python package `selectivesearch`, which the development dependencies bring.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from selectivesearch.selectivesearch import selective_search

from soco_core.config import ProposalsConfig
from soco_core.images import DEFAULT_MAX_PIXELS, BadImageError, decode_image, open_image_set
from soco_core.proposals.engines import build_engine
from soco_core.proposals.filters import distinct_boxes, filter_boxes
from soco_core.proposals.memory import keep_freed_memory
from soco_core.proposals.workers import Search, Workers

Boxes = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Find = Callable[[Image], Boxes]

PAPER = ProposalsConfig()
NO_CAP = 10_000
REFERENCE, EXACT, QUALITY = "`selectivesearch` (PyPI)", "`exact`", "`opencv` quality"
REFERENCE_HERE = f"{REFERENCE}, its memory as the engines'"
IMAGENET_IMAGES, IMAGENET_MEGAPIXELS = 1.28e6, 0.18
LIBRARIES = ("opencv-contrib-python-headless", "scikit-image", "numpy", "numba", "selectivesearch")
DATA = Path(os.environ.get("SOCO_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def reference(image: Image) -> Boxes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texture codes of float images
        _, regions = selective_search(image, scale=PAPER.scale, sigma=PAPER.sigma, min_size=PAPER.min_size)
    rects = [region["rect"] for region in regions]
    return np.array([(left, top, left + width, top + height) for left, top, width, height in rects], np.float32)


def engine(**options: object) -> Find:
    config = ProposalsConfig.model_validate({"max_long_side": NO_CAP, **options})
    built = build_engine(config, 0, None)
    return lambda image: built.search("", image)


VARIANTS: dict[str, Find] = {
    REFERENCE_HERE: reference,
    EXACT: engine(engine="exact"),
    "`opencv` (the paper's parameters)": engine(),
    "`opencv` fast": engine(opencv_mode="fast"),
    QUALITY: engine(opencv_mode="quality"),
    "`opencv` hsv": engine(opencv_colours=("hsv",)),
    "`opencv` lab": engine(opencv_colours=("lab",)),
    "`opencv` hsv+lab, 2 strategies": engine(opencv_colours=("hsv", "lab"), opencv_strategies=2),
    "`opencv` bgr+hsv+lab, 4 strategies": engine(opencv_colours=("bgr", "hsv", "lab"), opencv_strategies=4),
}


@dataclass
class Found:
    """What one variant did on the images so far; of coverage, numbers of boxes."""

    seconds: list[float] = field(default_factory=list)
    megapixels: float = 0.0
    reference_seconds: float = 0.0
    kept: list[int] = field(default_factory=list)
    strict: list[int] = field(default_factory=list)
    identical: int = 0
    of_reference: dict[float, int] = field(default_factory=lambda: {0.5: 0, 0.7: 0})
    of_own: dict[float, int] = field(default_factory=lambda: {0.5: 0, 0.7: 0})
    reference_kept: int = 0


def timed(find: Find, image: Image) -> tuple[float, Boxes]:
    began = time.process_time()
    boxes = find(image)
    return time.process_time() - began, boxes


def kept_boxes(boxes: Boxes, image: Image) -> tuple[Boxes, bool]:
    """The distinct boxes that the filter keeps, and whether by the paper's rule."""
    kept, step = filter_boxes(boxes, image.shape[1], image.shape[0], PAPER)
    return distinct_boxes(kept), step == "strict"


def overlaps(boxes: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """The best IoU of each box with any of the others."""
    one, other = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.clip(np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2]), 0, None)
    common = sides.prod(-1)
    areas = [(group[..., 2:] - group[..., :2]).prod(-1) for group in (one, other)]
    return np.asarray((common / (areas[0] + areas[1] - common)).max(axis=1))


def compare(images: Sequence[Image], slow_count: int) -> dict[str, Found]:
    """Run all variants on each image, each image beginning with another one."""
    names = [REFERENCE, *VARIANTS]
    results = {name: Found() for name in names}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as outside:

        def run(name: str, image: Image) -> tuple[float, Boxes]:
            if name == REFERENCE:
                return outside.submit(timed, reference, image).result()
            return timed(VARIANTS[name], image)

        for name in names:
            run(name, images[0][:64, :64])  # what is loaded or compiled at the first call
        for number, image in enumerate(images):
            chosen = [name for name in names if name != QUALITY or number < slow_count]
            turn = number % len(chosen)
            found = {name: run(name, image) for name in chosen[turn:] + chosen[:turn]}
            count_found(results, found, image)
    return results


def count_found(results: dict[str, Found], found: dict[str, tuple[float, Boxes]], image: Image) -> None:
    """Add what was found on one image."""
    theirs, _ = kept_boxes(found[REFERENCE][1], image)
    for name, (seconds, boxes) in found.items():
        result = results[name]
        kept, strict = kept_boxes(boxes, image)
        result.seconds.append(seconds)
        result.reference_seconds += found[REFERENCE][0]
        result.megapixels += image.shape[0] * image.shape[1] / 1e6
        result.kept.append(len(kept))
        result.strict.append(len(kept) if strict else 0)
        result.identical += np.array_equal(boxes, found[REFERENCE][1])
        result.reference_kept += len(theirs)
        for threshold in result.of_reference:
            result.of_reference[threshold] += int((overlaps(theirs, kept) >= threshold).sum())
            result.of_own[threshold] += int((overlaps(kept, theirs) >= threshold).sum())


def print_comparison(results: dict[str, Found]) -> None:
    print(
        "| | images | images/s | Mpx/s | times as fast | core-hours | kept | 0 / <4 strict | covers at .5 / .7 "
        "| is covered at .5 / .7 |\n|" + "---|" * 10
    )
    for name, found in results.items():
        if not found.seconds:
            continue
        count, total = len(found.seconds), sum(found.seconds)
        hours = total / found.megapixels * IMAGENET_MEGAPIXELS * IMAGENET_IMAGES / 3600
        none, few = (np.mean([kept <= limit for kept in found.strict]) for limit in (0, 3))
        of_reference = " / ".join(f"{number / found.reference_kept:.2f}" for number in found.of_reference.values())
        of_own = " / ".join(f"{number / sum(found.kept):.2f}" for number in found.of_own.values())
        print(
            f"| {name} | {count} | {count / total:.2f} | {found.megapixels / total:.2f} "
            f"| {found.reference_seconds / total:.2f} | {hours:.0f} | {np.mean(found.kept):.1f} "
            f"| {none:.0%} / {few:.0%} | {of_reference} | {of_own} |"
        )
    exact = results[EXACT]
    print(
        f"\n`exact` found the same boxes in the same order as the package on {exact.identical} of {len(exact.seconds)}."
    )


def print_scaling(folder: Path, ids: Sequence[str], rounds: int) -> None:
    """Throughput of the stage's workers; in turn, the best of each: other work on the machine only slows down."""
    source = open_image_set(str(folder)).source
    print("| | 1 process, images/s | 2 processes, images/s | times as fast |\n|---|---|---|---|")
    for name in ("opencv", "exact"):
        search = Search(source, ProposalsConfig.model_validate({"engine": name}), DEFAULT_MAX_PIXELS, 0, None)
        best = {1: 0.0, 2: 0.0}
        for _ in range(rounds):
            for count, record in best.items():
                with Workers(search, count) as workers:
                    list(workers.rows(ids[: 4 * count]))  # starts the processes
                    began = time.perf_counter()
                    rows = len(list(workers.rows(ids)))
                    best[count] = max(record, rows / (time.perf_counter() - began))
        print(f"| `{name}` | {best[1]:.2f} | {best[2]:.2f} | {best[2] / best[1]:.2f} |")


def print_cap(images: Sequence[Image], caps: Sequence[int]) -> None:
    """What the search on a reduced copy finds again of what it finds at full size, and what it saves."""
    print("| | long side | searched at | images | recall at .5 / .7 | kept | s/image | times as fast |\n|" + "---|" * 8)
    for name in ("opencv", "exact"):
        whole = [timed(engine(engine=name), image) for image in images]
        for low, high in ((0, PAPER.max_long_side), (PAPER.max_long_side, NO_CAP)):
            for cap in caps:
                capped = engine(engine=name, max_long_side=cap)
                full_seconds, seconds, full_kept, kept = 0.0, 0.0, 0, 0
                best: list[float] = []
                chosen = [k for k, image in enumerate(images) if max(low, cap) < max(image.shape[:2]) <= high]
                for k in chosen:
                    taken, boxes = timed(capped, images[k])
                    seconds, full_seconds = seconds + taken, full_seconds + whole[k][0]
                    (full, _), (few, _) = kept_boxes(whole[k][1], images[k]), kept_boxes(boxes, images[k])
                    full_kept, kept = full_kept + len(full), kept + len(few)
                    best.extend(overlaps(full, few))
                if not chosen:
                    continue
                sides = sorted(max(images[k].shape[:2]) for k in chosen)
                count = len(chosen)
                print(
                    f"| `{name}` | {sides[0]}..{sides[-1]} | {cap} | {count} | {np.mean(np.array(best) >= 0.5):.2f} / "
                    f"{np.mean(np.array(best) >= 0.7):.2f} | {full_kept / count:.1f} -> {kept / count:.1f} "
                    f"| {full_seconds / count:.2f} -> {seconds / count:.2f} | {full_seconds / seconds:.1f} |"
                )


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items, at equal distances."""
    return [items[k * len(items) // count] for k in range(min(count, len(items)))]


def read_all(folder: Path, ids: Sequence[str]) -> list[Image]:
    """The images that can be decoded."""
    images = []
    for image_id in ids:
        with suppress(BadImageError):
            images.append(decode_image((folder / image_id).read_bytes()))
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "imagenet-sample")
    parser.add_argument("--images-count", type=int, default=100, help="images on which all engines are compared")
    parser.add_argument("--slow-count", type=int, default=10, help="how many of them OpenCV's quality mode gets")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the scaling from one process to two; 0: none")
    parser.add_argument("--cap-count", type=int, default=20, help="images each of COCO and VOC for the cap; 0: none")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()
    ids = spread(open_image_set(str(options.folder)).ids, options.images_count)
    images = read_all(options.folder, ids)
    area = np.mean([image.shape[0] * image.shape[1] for image in images]) / 1e6
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"{len(images)} images of {area:.3f} megapixels; Python {platform.python_version()}, {libraries}\n")
    print_comparison(compare(images, options.slow_count))
    if options.rounds:
        print()
        print_scaling(options.folder, ids, options.rounds)
    if options.cap_count:
        print()
        print_cap(cap_images(options.cap_count), (1000, 500, 400, 320, 256))


def cap_images(count: int) -> list[Image]:
    """Photographs of COCO and VOC, and the largest of those that break loaders."""
    images: list[Image] = []
    for folder in (DATA / "coco-mini" / "images", DATA / "voc07-mini" / "JPEGImages"):
        images += read_all(folder, spread(open_image_set(str(folder)).ids, count))
    nasty = read_all(DATA / "nasty", open_image_set(str(DATA / "nasty")).ids)
    return images + [image for image in nasty if max(image.shape[:2]) > PAPER.max_long_side]


if __name__ == "__main__":
    main()

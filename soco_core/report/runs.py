"""The runs of a report, and how each differs from the setting of the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.result import ResultDirectory
from soco_core.benchmarks.paper import PRETRAINING_EPOCHS, PRETRAINING_IMAGES
from soco_core.benchmarks.table import Benchmark, find_benchmark
from soco_core.config import FinetuneConfig, Recipe
from soco_core.errors import InputError
from soco_core.recipes import load_recipe

METRICS = "metrics.json"
METHOD_ORDER = ("Scratch", "Supervised")
ANSWERED_ELSEWHERE = {
    "finetune": {"benchmark", "iterations", "batch_size"},
    "pretrain": {"epochs"},
    "proposals": {"boxes_file"},
    "linear": {"knn_neighbours", "knn_temperature"},
}
"""Fields that are compared as a number of the run, with more than one value of the paper's, or by another field; and
those of the k-NN accuracy, of which the paper has none."""
LIKE_THE_PAPER = {
    ("finetune", "engine"): ("detectron2", "torchvision"),
    ("proposals", "engine"): ("exact", "opencv"),
    ("proposals", "exact_texture_range"): ("unit", "byte"),
}
"""Fields of which more than the default counts as the paper's setting: `exact` is the implementation that its
parameters belong to, `byte` what the authors' copy of that does; the engines of detection compute the same."""
WITH_BOXES = 0.98
"""Least share of a published training set that has boxes: 99.1 % of COCO's, 99.2 % of LVIS's images have."""
SOCO_FPN, SOCO_C4 = ("soco-fpn-400ep", "soco-star-400ep"), ("soco-c4-400ep",)
SOCO = (*SOCO_FPN, *SOCO_C4)
"""The paper's pretrainings, as recipes: SoCo and SoCo* for detectors with FPN, SoCo-R50-C4 for those on C4."""
PAPER_BACKBONE = Recipe().model.backbone
COMPARED_SECTIONS = ("proposals", "views", "model", "pretrain", "finetune", "linear")


@dataclass(frozen=True)
class Difference:
    """One thing in which a run is not what the paper did."""

    what: str
    ours: str
    paper: str


@dataclass(frozen=True)
class Run:
    """One finetuned and evaluated detector."""

    result: BenchmarkResult
    directory: ResultDirectory
    differences: tuple[Difference, ...]

    @property
    def path(self) -> Path:
        """Local directory of the result."""
        return self.directory.path

    @property
    def shortened(self) -> bool:
        """Whether data, schedule or model are not the paper's, so that its numbers cannot be compared."""
        return bool(self.differences)

    @property
    def recipe(self) -> dict[str, Any]:
        """The part of the recipe that determined the run, plain JSON."""
        return dict(self.directory.determined_by["recipe"])

    @property
    def setting(self) -> dict[str, Any]:
        """All that determined the run but its initial weights and its seed."""
        recipe = {key: value for key, value in self.recipe.items() if key != "seed"}
        inputs = {key: value for key, value in self.directory.determined_by["inputs"].items() if _is_data(key)}
        return {"recipe": recipe, "inputs": inputs, "contract": self.directory.determined_by["contract"]}


def read_runs(
    benchmarks: list[ResultDirectory], pretrained: ResultDirectory | None, proposals: ResultDirectory | None
) -> list[Run]:
    """Read the benchmark results: Scratch, Supervised, then the others by name, seeds ascending.

    Args:
        benchmarks: whole results of `finetune`.
        pretrained: the pretraining behind the SoCo rows, if known.
        proposals: the proposals behind that, if known.

    Raises:
        InputError: two different results claim the same row.
    """
    runs: dict[tuple[str, str, int], Run] = {}
    for directory in benchmarks:
        result = BenchmarkResult.read(directory.path / METRICS)
        row = (result.benchmark, result.method, result.seed)
        known = runs.get(row)
        if known is not None and known.directory.fingerprint != directory.fingerprint:
            raise InputError(
                f"{directory.uri}: {result.method} with seed {result.seed} on {result.benchmark}, as is "
                f"{known.directory.uri}; give one of them only, or name their rows apart when finetuning"
            )
        differences = tuple(dict.fromkeys(_differences(result, directory, pretrained, proposals)))
        runs[row] = Run(result, directory, differences)
    return sorted(runs.values(), key=_order)


def is_soco(result: BenchmarkResult) -> bool:
    """Tell whether a row rests on the pretraining."""
    return result.method.startswith("SoCo") and "imported" not in result.initialisation


def _order(run: Run) -> tuple[str, int, str, int]:
    method = run.result.method
    rank = METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)
    return run.result.benchmark, rank, method, run.result.seed


def _is_data(name: str) -> bool:
    return name not in {"init", "method"}


def _differences(
    result: BenchmarkResult,
    directory: ResultDirectory,
    pretrained: ResultDirectory | None,
    proposals: ResultDirectory | None,
) -> Iterator[Difference]:
    benchmark = find_benchmark(result.benchmark)
    if benchmark is not None:
        yield from _data_differences(result, benchmark)
    settings = FinetuneConfig(**benchmark.settings) if benchmark else FinetuneConfig()
    if benchmark is None or not benchmark.linear:
        for what, ours, paper in (
            ("iterations", result.iterations, settings.iterations),
            ("batch size", result.batch_size, settings.batch_size),
        ):
            if ours != paper:
                yield Difference(what, f"{ours:,}", f"{paper:,}")
    yield from _recipe_differences(directory, SOCO, settings)
    if benchmark is not None and benchmark.linear:
        backbone = directory.determined_by["inputs"]["backbone"]
        if backbone != PAPER_BACKBONE:
            yield Difference("model.backbone", backbone, PAPER_BACKBONE)
    if is_soco(result):
        kinds = SOCO if benchmark is None or benchmark.linear else SOCO_FPN if settings.has_pyramid else SOCO_C4
        yield from _pretraining_differences(pretrained, proposals, kinds)


def _data_differences(result: BenchmarkResult, benchmark: Benchmark) -> Iterator[Difference]:
    published = benchmark.train_images
    # Detectors leave out images without a box: 1,021 of COCO's 118,287.
    if not WITH_BOXES * published <= result.train_images <= published:
        yield Difference("training images", f"{result.train_images:,}", f"{published:,}")
    if result.val_images != benchmark.val_images:
        yield Difference("evaluated images", f"{result.val_images:,}", f"{benchmark.val_images:,}")


def _pretraining_differences(
    pretrained: ResultDirectory | None, proposals: ResultDirectory | None, kinds: tuple[str, ...]
) -> Iterator[Difference]:
    if pretrained is None:
        yield Difference("pretraining", "not given to this report", "100 or 400 epochs of ImageNet")
        return
    images = int(pretrained.summary["images"])
    if not PRETRAINING_IMAGES[0] <= images <= PRETRAINING_IMAGES[1]:
        yield Difference("pretraining images", f"{images:,}", "about 1.28 million")
    epochs = pretrained.determined_by["recipe"]["pretrain"]["epochs"]
    if epochs not in PRETRAINING_EPOCHS:
        yield Difference("pretraining epochs", str(epochs), " or ".join(map(str, PRETRAINING_EPOCHS)))
    yield from _recipe_differences(pretrained, kinds)
    if proposals is not None:
        yield from _recipe_differences(proposals, kinds)


def _recipe_differences(
    directory: ResultDirectory, kinds: tuple[str, ...], finetune: FinetuneConfig | None = None
) -> list[Difference]:
    """Compare what determined a result with the nearest of the paper's recipes, and with a benchmark's settings."""
    recipe = directory.determined_by["recipe"]
    changed = {"finetune": finetune or FinetuneConfig()}
    papers = (load_recipe(kind).model_copy(update=changed).part(*COMPARED_SECTIONS) for kind in kinds)
    return min((list(_section_differences(recipe, paper)) for paper in papers), key=len)


def _section_differences(recipe: dict[str, Any], paper: dict[str, Any]) -> Iterator[Difference]:
    for section in COMPARED_SECTIONS:
        if section not in recipe:
            continue
        for field, value in paper[section].items():
            accepted = LIKE_THE_PAPER.get((section, field), (value,))
            if field not in ANSWERED_ELSEWHERE.get(section, ()) and recipe[section].get(field, value) not in accepted:
                yield Difference(
                    f"{section}.{field}", _shown(recipe[section][field]), " or ".join(map(_shown, accepted))
                )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)

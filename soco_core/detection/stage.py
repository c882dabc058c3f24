"""The stage `finetune`: a detector trained on a labelled data set and evaluated in the paper's columns (4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soco_core.artifacts.benchmark import BenchmarkResult, check_detector
from soco_core.artifacts.initialisation import Initialisation, find_initialisation
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete, other_precision
from soco_core.artifacts.weights import save_weights
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.datasets.split import LabelledDataset, trainable_images
from soco_core.detection.coco import open_finetuning_data
from soco_core.detection.engines import engine_export, resolve_engine
from soco_core.engine.distributed import Processes
from soco_core.engine.together import in_common, run_together
from soco_core.tracking import Tracker, TrackingContext

if TYPE_CHECKING:
    from soco_core.detection.experiment import Experiment

CONTRACT = 2
METRICS = "metrics.json"
PREDICTIONS = "predictions.json"
WEIGHTS = "model.safetensors"
FIGURE = "figures/detections.png"
CATEGORIES = "categories.json"
IMAGES = "images.json"


def finetune(
    recipe: Recipe,
    *,
    init: str,
    output: str,
    coco: str = "",
    data: str | None = None,
    tracking: TrackingContext | None = None,
    method: str | None = None,
) -> ResultDirectory:
    """Train the recipe's detector on a data set and evaluate it, in all processes that `torchrun` started.

    The result holds ``metrics.json`` (:class:`soco_core.artifacts.benchmark.BenchmarkResult`),
    ``metrics.jsonl`` (losses by step), ``predictions.json`` (COCO results), ``images.json`` (what those are of),
    ``model.safetensors`` (the engine's names), ``categories.json`` (COCO's, in the order of the classes),
    ``coverage.json`` (what was loaded), ``figures/detections.png``, and ``train_ids.txt`` (the ids of the training
    images) where they are a part of a data set.

    Args:
        recipe: the resolved recipe; `seed`, `model` and `finetune` determine the result.
        init: ``scratch``, a weights file, or the directory or URI of a `convert` or `import` result.
        output: root of all results, a local directory or an S3 URI.
        coco: folder of a data set, or a name; empty: the benchmark's
            (:func:`soco_core.detection.coco.open_finetuning_data`).
        data: where data sets lie by their names, before the recipe's section `datasets`.
        tracking: where to track, or None.
        method: row of the table; by default ``Scratch``, ``Supervised``, ``SoCo`` or the method that was imported, by
            `init`.

    Returns:
        The result, in the first process. The others end here, with its status.

    Raises:
        InputError: the data set or the weights are not what they should be, or there is no detector for the
            recipe's `model`; nothing was written then.
    """
    recipe = resolve_engine(recipe)

    def open_inputs() -> tuple[LabelledDataset, Initialisation]:
        return _open_inputs(recipe, coco, init, data)

    def common(dataset: LabelledDataset, start: Initialisation) -> dict[str, Any]:
        inputs = {"the_data_set": dataset.fingerprint, "the_weights": start.fingerprint}
        return in_common(recipe, ("seed", "model", "finetune"), **inputs)

    def lead(processes: Processes) -> ResultDirectory:
        dataset, start = open_inputs()
        row = method or start.method
        result = _locate(recipe, dataset, start, row, output)

        def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
            from soco_core.detection.experiment import experiment

            with processes.computing():
                processes.in_turn(lambda: None)
                processes.check_same(common(dataset, start))
                found = experiment(recipe, dataset, start, row, processes, result, tracker)
            return _write(recipe, dataset, start, row, found, result)

        reused = result.done is not None
        complete(result, recipe, tracking, compute, label=f"finetune {row}")
        if reused:
            used = result.summary.get("precision")
            for warning in other_precision(
                result, used, recipe.runtime.finetune_precision, "runtime.finetune_precision"
            ):
                say(f"warning: {warning}")
        return result

    def follow(processes: Processes) -> None:
        from soco_core.detection.experiment import experiment

        dataset, start = processes.in_turn(open_inputs)
        processes.check_same(common(dataset, start))
        experiment(recipe, dataset, start, "", processes)

    return run_together(recipe.runtime.device, lead, follow)


def locate_finetuning(
    recipe: Recipe, *, init: str, output: str, coco: str = "", data: str | None = None, method: str | None = None
) -> ResultDirectory:
    """Find the result of a finetuning, whole or not; its data set is opened and checked, and nothing is written.

    Args:
        recipe, init, output, coco, data, method: those of :func:`finetune`.

    Raises:
        InputError: as :func:`finetune` does.
    """
    recipe = resolve_engine(recipe)
    dataset, start = _open_inputs(recipe, coco, init, data)
    return _locate(recipe, dataset, start, method or start.method, output)


def _open_inputs(recipe: Recipe, coco: str, init: str, data: str | None) -> tuple[LabelledDataset, Initialisation]:
    check_detector(recipe)
    start = find_initialisation(init, engine_export(recipe))
    return open_finetuning_data(coco, recipe, data), start


def _locate(recipe: Recipe, dataset: LabelledDataset, start: Initialisation, row: str, output: str) -> ResultDirectory:
    inputs = {"coco": dataset.fingerprint, "init": start.fingerprint, "method": row}
    return locate(output, "finetune", CONTRACT, recipe, ("seed", "model", "finetune"), inputs)


def _write(
    recipe: Recipe, data: LabelledDataset, start: Initialisation, row: str, found: Experiment, result: ResultDirectory
) -> dict[str, Any]:
    import json

    from soco_core.detection.figures import draw_detections
    from soco_core.evaluation.evaluator import evaluate
    from soco_core.storage import write_text

    settings = recipe.finetune
    write_text(result.path / CATEGORIES, json.dumps(data.train.categories, indent=2) + "\n")
    keys = ("id", "file_name", "width", "height")
    images = [{key: image[key] for key in keys} for image in data.val.images]
    write_text(result.path / IMAGES, json.dumps({"images": images, "categories": data.train.categories}) + "\n")
    header = {"format": settings.engine, "recipe": recipe.name}
    save_weights(result.path / WEIGHTS, found.model.state_dict(), header)
    write_text(result.path / PREDICTIONS, json.dumps(found.predictions))
    evaluation = evaluate(data.val, found.predictions, settings.has_masks)
    BenchmarkResult(
        benchmark=settings.benchmark,
        method=row,
        metrics=evaluation.columns,
        train_images=len(trainable_images(data.train, settings.has_masks)),
        val_images=len(data.val.images),
        iterations=settings.iterations,
        batch_size=settings.batch_size,
        seed=recipe.seed,
        initialisation=start.description,
        shortened=settings.scale,
        details=evaluation.details | {"precision": found.precision},
    ).write(result.path / METRICS)
    draw_detections(data.val, found.predictions, result.path / FIGURE, recipe.images.max_pixels)
    shown = ", ".join(
        f"{name} {'n/a' if value is None else f'{value:.1f}'}" for name, value in evaluation.columns.items()
    )
    say(f"finetune {row}: {shown}")
    # The final weights are written; checkpoints many times their size would only fill the store.
    result.unpublish(*sorted((result.path / "checkpoints").glob("*")))
    return {
        "benchmark": settings.benchmark,
        "method": row,
        "metrics": evaluation.columns,
        "precision": found.precision,
        "loaded_keys": len(found.coverage.loaded),
        "newly_initialised_keys": len(found.coverage.newly_initialised),
    }

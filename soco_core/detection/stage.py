"""The stage `finetune`: a detector trained on a labelled data set and evaluated in the paper's columns (4.2)."""

from __future__ import annotations

from typing import Any

from soco_core.artifacts.benchmark import BenchmarkResult, check_detector
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.artifacts.weights import Coverage
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.datasets.split import LabelledDataset
from soco_core.detection.coco import open_finetuning_data
from soco_core.detection.weights import Initialisation, find_initialisation
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 2
METRICS = "metrics.json"
PREDICTIONS = "predictions.json"
COVERAGE = "coverage.json"
WEIGHTS = "model.safetensors"
FIGURE = "figures/detections.png"
TRAIN_IDS = "train_ids.txt"
CATEGORIES = "categories.json"


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
    """Train the recipe's detector on a data set and evaluate it.

    The result holds ``metrics.json`` (:class:`soco_core.artifacts.benchmark.BenchmarkResult`),
    ``metrics.jsonl`` (losses by step), ``predictions.json`` (COCO results), ``model.safetensors``
    (torchvision's names), ``categories.json`` (COCO's, in the order of the classes), ``coverage.json`` (what was
    loaded), ``figures/detections.png``, and ``train_ids.txt`` (the ids of the training images) where they are a part
    of a data set.

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

    Raises:
        InputError: the data set or the weights are not what they should be, or there is no detector for the
            recipe's `model`; nothing was written then.
    """
    check_detector(recipe)
    start = find_initialisation(init)
    dataset = open_finetuning_data(coco, recipe, data)
    row = method or start.method
    inputs = {"coco": dataset.fingerprint, "init": start.fingerprint, "method": row}
    result = locate(output, "finetune", CONTRACT, recipe, ("seed", "model", "finetune"), inputs)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        return _compute(recipe, dataset, start, row, result, tracker)

    return complete(result, recipe, tracking, compute, label=f"finetune {row}")


def _compute(
    recipe: Recipe, data: LabelledDataset, start: Initialisation, row: str, result: ResultDirectory, tracker: Tracker
) -> dict[str, Any]:
    import json

    from safetensors.torch import save

    from soco_core.datasets.subsets import write_ids
    from soco_core.detection.data import trainable_images
    from soco_core.detection.evaluate import predict
    from soco_core.detection.figures import draw_detections
    from soco_core.detection.model import build_detector
    from soco_core.detection.train import refresh_batch_norms, train
    from soco_core.detection.weights import load_initialisation
    from soco_core.engine.setup import choose_device, seed_everything
    from soco_core.evaluation.evaluator import evaluate
    from soco_core.storage import write_bytes, write_text

    device = choose_device(recipe.runtime.device)
    trained_on = len(trainable_images(data.train))
    seed_everything(recipe.seed)
    model = build_detector(recipe, len(data.train.categories))
    coverage = load_initialisation(model, start)
    coverage.write(result.path / COVERAGE)
    say(_summary_line(row, start, coverage))
    if data.train.subset:
        write_ids(data.train, result.path / TRAIN_IDS)
    model.to(device)
    train(model, data.train, recipe, device, result, tracker)
    refresh_batch_norms(model, data.train, recipe, device)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_text(result.path / CATEGORIES, json.dumps(data.train.categories, indent=2) + "\n")
    write_bytes(result.path / WEIGHTS, save(tensors, {"format": "torchvision", "recipe": recipe.name}))

    predictions = predict(model, data.val, recipe, device)
    write_text(result.path / PREDICTIONS, json.dumps(predictions))
    evaluation = evaluate(data.val, predictions, recipe.finetune.has_masks)
    BenchmarkResult(
        benchmark=recipe.finetune.benchmark,
        method=row,
        metrics=evaluation.columns,
        train_images=trained_on,
        val_images=len(data.val.images),
        iterations=recipe.finetune.iterations,
        batch_size=recipe.finetune.batch_size,
        seed=recipe.seed,
        initialisation=start.description,
        shortened=recipe.finetune.scale,
        details=evaluation.details,
    ).write(result.path / METRICS)
    draw_detections(data.val, predictions, result.path / FIGURE)
    shown = ", ".join(
        f"{name} {'n/a' if value is None else f'{value:.1f}'}" for name, value in evaluation.columns.items()
    )
    say(f"finetune {row}: {shown}")
    # The final weights are written; checkpoints many times their size would only fill the store.
    result.unpublish(*sorted((result.path / "checkpoints").glob("*")))
    return {
        "benchmark": recipe.finetune.benchmark,
        "method": row,
        "metrics": evaluation.columns,
        "loaded_keys": len(coverage.loaded),
        "newly_initialised_keys": len(coverage.newly_initialised),
    }


def _summary_line(row: str, start: Initialisation, coverage: Coverage) -> str:
    return (
        f"finetune {row}: from {start.description}; {len(coverage.loaded)} keys loaded, "
        f"{len(coverage.left_out)} left out, {len(coverage.newly_initialised)} newly initialised"
    )

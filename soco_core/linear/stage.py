"""The stage `linear`: a linear classifier on a fixed backbone, on labelled images (paper B, Table 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.initialisation import Initialisation, find_initialisation
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete, other_precision
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.engine.distributed import Processes
from soco_core.engine.together import in_common, run_together
from soco_core.linear.data import LabelledImages, open_labelled_images
from soco_core.tracking import Tracker, TrackingContext

if TYPE_CHECKING:
    from soco_core.linear.probe import Probe

CONTRACT = 1
BENCHMARK = "linear"
METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"
WEIGHTS = "linear.safetensors"


def linear(
    recipe: Recipe,
    *,
    init: str,
    output: str,
    images: str = "imagenet",
    data: str | None = None,
    tracking: TrackingContext | None = None,
    method: str | None = None,
) -> ResultDirectory:
    """Evaluate a backbone by a linear classifier and by its nearest neighbours, in all processes of `torchrun`.

    The result holds ``metrics.json`` (:class:`soco_core.artifacts.benchmark.BenchmarkResult`: ``top1`` and ``top5``
    of the best learning rate, ``knn``, all in percent), ``metrics.jsonl`` (losses by step), ``coverage.json`` (what
    was loaded), ``linear.safetensors`` (the classifiers), ``predictions.parquet`` and ``neighbours.json``.

    Args:
        recipe: the resolved recipe; `seed`, `linear`, `model.backbone` and `images.max_pixels` determine the result.
        init: ``scratch``, a weights file, or the directory or URI of a `convert` or `import` result.
        output: root of all results, a local directory or an S3 URI.
        images: where ``train/CLASS/*`` and ``val/CLASS/*`` lie, or ``imagenet``
            (:func:`soco_core.linear.data.open_labelled_images`).
        data: where ``imagenet`` lies, before the recipe.
        tracking: where to track, or None.
        method: row of the table; by default ``Scratch``, ``Supervised``, ``SoCo`` or the method that was imported, by
            `init`.

    Returns:
        The result, in the first process. The others end here, with its status.

    Raises:
        InputError: the images or the weights are not what they should be.
        InterruptedStageError: stopped by a signal, in whichever process; what was finished is kept.
        SocoError: the loss is not finite.
    """

    def open_inputs() -> tuple[LabelledImages, Initialisation]:
        return _open_inputs(recipe, images, init, data)

    def common(data: LabelledImages, origin: Initialisation) -> dict[str, Any]:
        inputs = {"the_images": data.fingerprint, "the_weights": origin.fingerprint}
        return in_common(recipe, ("seed", "linear", "model", "images"), **inputs)

    def lead(processes: Processes) -> ResultDirectory:
        data, origin = open_inputs()
        row = method or origin.method
        result = _locate(recipe, data, origin, row, output)

        def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
            from soco_core.linear.probe import probe

            with processes.computing():
                processes.in_turn(lambda: None)
                processes.check_same(common(data, origin))
                found = probe(recipe, data, origin, processes, result, tracker)
            return _write(recipe, data, origin, row, found, result)

        reused = result.done is not None
        complete(result, recipe, tracking, compute, label=f"linear {row}")
        if reused:
            used = result.summary.get("precision")
            for warning in other_precision(result, used, recipe.runtime.precision, "runtime.precision"):
                say(f"warning: {warning}")
        return result

    def follow(processes: Processes) -> None:
        from soco_core.linear.probe import probe

        data, origin = processes.in_turn(open_inputs)
        processes.check_same(common(data, origin))
        probe(recipe, data, origin, processes)

    return run_together(recipe.runtime.device, lead, follow)


def locate_linear(
    recipe: Recipe,
    *,
    init: str,
    output: str,
    images: str = "imagenet",
    data: str | None = None,
    method: str | None = None,
) -> ResultDirectory:
    """Find the result of a linear evaluation, whole or not; its images are listed, and nothing is written.

    Args:
        recipe, init, output, images, data, method: those of :func:`linear`.

    Raises:
        InputError: as :func:`linear` does.
    """
    labelled, origin = _open_inputs(recipe, images, init, data)
    return _locate(recipe, labelled, origin, method or origin.method, output)


def _open_inputs(recipe: Recipe, images: str, init: str, data: str | None) -> tuple[LabelledImages, Initialisation]:
    origin = find_initialisation(init)
    return open_labelled_images(images, recipe.datasets, data), origin


def _locate(recipe: Recipe, data: LabelledImages, origin: Initialisation, row: str, output: str) -> ResultDirectory:
    inputs = {
        "images": data.fingerprint,
        "init": origin.fingerprint,
        "method": row,
        "backbone": recipe.model.backbone,
        "max_pixels": recipe.images.max_pixels,
    }
    return locate(output, "linear", CONTRACT, recipe, ("seed", "linear"), inputs)


def _write(
    recipe: Recipe, data: LabelledImages, origin: Initialisation, row: str, found: Probe, result: ResultDirectory
) -> dict[str, Any]:
    import json

    import numpy as np

    from soco_core.artifacts.weights import save_weights
    from soco_core.linear.evaluate import accuracies

    rates = recipe.linear.learning_rates
    labels = np.array(data.val.labels)
    reached = [
        {"learning_rate": rate, "top1": top1, "top5": top5}
        for rate, (top1, top5) in zip(rates, (accuracies(head, labels) for head in found.best), strict=True)
    ]
    chosen = max(range(len(rates)), key=lambda number: reached[number]["top1"])
    metrics = {
        "top1": reached[chosen]["top1"],
        "top5": reached[chosen]["top5"],
        "knn": float(found.neighbours["top1"]),
    }
    header = json.dumps({"learning_rates": rates, "best": chosen, "classes": data.train.classes})
    save_weights(result.path / WEIGHTS, found.heads.state_dict(), {"linear": header})
    _write_predictions(data, found.best[chosen], result)
    bad = len(found.neighbours["bad_images"])
    BenchmarkResult(
        benchmark=BENCHMARK,
        method=row,
        metrics=dict(metrics),
        train_images=len(data.train.ids) - bad,
        val_images=len(data.val.ids),
        iterations=found.training.total_steps,
        batch_size=found.training.images_per_step,
        seed=recipe.seed,
        initialisation=origin.description,
        shortened=recipe.linear.scale,
        details={
            "classes": len(data.train.classes),
            "learning_rates": reached,
            "best_learning_rate": rates[chosen],
            "knn": {key: found.neighbours[key] for key in ("neighbours", "temperature")},
            "bad_images": bad,
            "epochs": recipe.linear.epochs,
            "backbone": recipe.model.backbone,
            "precision": found.precision,
        },
    ).write(result.path / METRICS)
    say(f"linear {row}: {', '.join(f'{name} {value:.1f}' for name, value in metrics.items())}")
    # What is kept is written; a training that is done needs no checkpoint.
    result.unpublish(*sorted((result.path / "checkpoints").glob("*")))
    return {
        "benchmark": BENCHMARK,
        "method": row,
        "metrics": metrics,
        "precision": found.precision,
        "best_learning_rate": rates[chosen],
        "loaded_keys": len(found.coverage.loaded),
        "bad_images": bad,
    }


def _write_predictions(data: LabelledImages, best: Any, result: ResultDirectory) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from soco_core.storage import atomic_file

    names = data.val.classes
    table = pa.table(
        {
            "id": list(data.val.ids),
            "label": [names[label] for label in data.val.labels],
            "top5": [[names[index] for index in row] for row in best.tolist()],
        }
    )
    with atomic_file(result.path / PREDICTIONS) as file:
        pq.write_table(table, file, compression="zstd")

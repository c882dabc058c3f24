"""The stage `plan`: what a pipeline run is of, settled before anything is computed.

The same recipe and inputs are the same plan, found again by its result directory; so the same command,
given again after a failure or to look at the report, goes on under the same MLflow parent run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from soco_core import storage
from soco_core.artifacts.benchmark import check_detector
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.plan.inputs import (
    absolute,
    check_boxes_file,
    check_coco,
    check_images,
    check_weights,
    named_coco,
    with_absolute_files,
)
from soco_core.tracking import (
    Tracker,
    TrackingContext,
    check_tracking_uri,
    default_store,
    end_pipeline_run,
    resume_pipeline_run,
    start_pipeline_run,
)

CONTRACT = 1
PARENT_RUN = "parent-run.json"
"""Beside the result: the parent run and its status. Not part of the result, which no store can change."""
DETERMINING = ("name", "seed", "images", "proposals", "views", "model", "pretrain", "finetune", "demo_data")
"""All of the recipe but `runtime`, which changes nothing that is computed, and `datasets`, which only a name needs."""


@dataclass(frozen=True)
class Plan:
    """What every later stage of the run is given."""

    result: ResultDirectory
    recipe: Recipe
    """Its files are named by absolute paths."""
    tracking: TrackingContext | None
    """Where the run is tracked; None if nowhere."""


def plan(
    recipe: Recipe,
    *,
    images: str,
    coco: str,
    output: str,
    supervised: str = "",
    tracking_uri: str = "",
    benchmarks: Sequence[Recipe] | None = None,
) -> Plan:
    """Check the inputs, store the resolved recipe, and open the parent run (or go on with it).

    Args:
        recipe: the resolved recipe.
        images: image set to pretrain on.
        coco: folder of the COCO-format data set to finetune and evaluate on, or a name such as ``mini-coco-5``; empty:
            that of each of the `benchmarks`.
        output: root of all results, a local directory or an S3 URI.
        supervised: file of ImageNet-supervised weights; empty for none.
        tracking_uri: MLflow tracking URI; if empty, ``MLFLOW_TRACKING_URI``, then an SQLite file in a
            local `output`. A run whose output is on S3 and that names no URI is not tracked.
        benchmarks: the recipe of each benchmark; none: of a pretraining alone. By default the recipe's own.

    Raises:
        InputError: an input is missing or empty, there is no detector for the recipe's `model`, or the tracking URI
            holds a password.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _default_store(output)
    check_tracking_uri(uri)
    for each in [recipe] if benchmarks is None else benchmarks:
        check_detector(each)
    recipe = with_absolute_files(recipe)
    name = named_coco(coco)
    inputs: dict[str, Any] = {
        "images": absolute(images),
        "coco": coco if name else absolute(coco),
        "supervised": absolute(supervised),
    }
    if benchmarks is not None:
        inputs["benchmarks"] = [each.part("finetune", "linear") for each in benchmarks]
    # Checked again even if the plan is known: an input may have gone since.
    check_boxes_file(recipe)
    count = check_images(images, recipe.images)
    if coco:
        check_coco(coco, recipe.datasets)
    if supervised:
        check_weights(supervised)
    # Of a name, where it lies and which images are its part are the recipe's.
    sections = (*DETERMINING, "datasets") if name or not coco else DETERMINING
    result = locate(output, "plan", CONTRACT, recipe, sections, {**inputs, "tracking": uri})

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        shown = {key: value for key, value in inputs.items() if key != "benchmarks"}
        return {**shown, "pretraining_images": count}

    complete(result, recipe, None, compute)
    return Plan(result, recipe, _parent_run(result, recipe, uri) if uri else None)


def end_run(plan_result: str, succeeded: bool) -> None:
    """Close the parent run of a plan, unless it is closed in this way already.

    Args:
        plan_result: path or URI of the plan's result directory.
        succeeded: whether all stages of the pipeline did.
    """
    where = storage.join(plan_result, PARENT_RUN)
    if not storage.exists(where):
        return
    known = json.loads(storage.read_text(where))
    status = "FINISHED" if succeeded else "FAILED"
    if known["status"] != status:
        context = TrackingContext(known["uri"], known["parent"])
        try:
            end_pipeline_run(context, succeeded)
        except Exception as error:  # MLflow's clients raise whatever their transport raises
            _warn(error)
        else:
            _remember(where, context, status)


def _parent_run(result: ResultDirectory, recipe: Recipe, uri: str) -> TrackingContext | None:
    """Return the plan's parent run; that of an attempt that ended in an error is shown as running again."""
    where = storage.join(result.uri, PARENT_RUN)
    known = json.loads(storage.read_text(where)) if storage.exists(where) else None
    if known is not None and known["status"] != "FAILED":
        return TrackingContext(known["uri"], known["parent"])
    try:
        if known is None:
            tags = {"soco.result": result.uri, **{f"soco.{key}": str(value) for key, value in result.summary.items()}}
            context = start_pipeline_run(uri, recipe.name, recipe, tags)
        else:
            context = TrackingContext(known["uri"], known["parent"])
            resume_pipeline_run(context)
    except Exception as error:  # MLflow's clients raise whatever their transport raises
        _warn(error)
        return None
    _remember(where, context, "RUNNING")
    return context


def _remember(where: str, context: TrackingContext, status: str) -> None:
    storage.write_text(where, json.dumps({"uri": context.uri, "parent": context.parent, "status": status}) + "\n")


def _default_store(output: str) -> str:
    return "" if storage.is_s3(output) else default_store(output)


def _warn(error: Exception) -> None:
    say(f"warning: the parent run in MLflow cannot be written ({' '.join(str(error).split())[:200]}); going on")

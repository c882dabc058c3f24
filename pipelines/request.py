"""What a command line asks for: the shape of the pipeline, and the values of its parameters."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pipelines.compare import parameters
from pipelines.proposals import ShardTasks
from pipelines.shape import Shape
from pipelines.tasks import Tasks

BENCHMARK_SECTIONS = ("finetune.", "linear.")


def shape_of(options: argparse.Namespace, tasks: Tasks, shards: ShardTasks, job: str = "") -> Shape:
    """Return what is settled when the pipeline is compiled.

    Args:
        options: of the command, checked.
        tasks: images and pods of the stages.
        shards: how the proposals' shards run.
        job: settings of the PyTorchJob that pretrains; empty: none.
    """
    return Shape(
        tasks=tasks,
        shards=shards,
        demo=not options.images,
        supervised=bool(options.supervised),
        comparisons=options.compare,
        benchmarks=options.benchmarks or [""],
        job=bool(job),
    )


def arguments_of(options: argparse.Namespace, recipe: str, **more: str) -> dict[str, Any]:
    """Return the pipeline's parameters, those that are given.

    Args:
        options: of the command, checked.
        recipe: the name of a recipe, or YAML text.
        more: other parameters, and those that go before the options.
    """
    values: dict[str, Any] = {
        "recipe": recipe,
        "images": options.images,
        "coco": options.coco,
        "supervised": options.supervised,
        **{name: each.weights for name, each in parameters(options.compare).items()},
        "output": options.output,
        "tracking_uri": options.tracking_uri,
        "shards": options.shards,
        **more,
    }
    if options.benchmarks:
        overrides = [text.strip() for text in options.set if text.strip().startswith(BENCHMARK_SECTIONS)]
        values |= {"scale": options.scale, "overrides": json.dumps(overrides) if overrides else ""}
        values["linear_images"] = options.linear_images if "linear" in options.benchmarks else ""
        # Where each benchmark has its own, a run need not name one.
        values["coco"] = options.coco or ""
    return {name: value for name, value in values.items() if value}

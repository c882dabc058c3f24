"""``--local``: the inputs are looked at, then the pipeline runs on this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.benchmarks import IMAGENET, check_data, is_linear
from pipelines.cluster import local_image, shard_tasks
from pipelines.compare import check_comparisons
from pipelines.containers import prepare
from pipelines.local import refuse_rewritten, run_local
from pipelines.options import LOCAL_SHARDS
from pipelines.proposals import RETRIED
from pipelines.request import arguments_of, shape_of
from pipelines.site import Stages
from pipelines.tasks import Tasks
from soco_core.config import Recipe
from soco_core.datasets.open_set import is_place
from soco_core.engine.setup import usable_cores
from soco_core.plan.inputs import (
    absolute,
    check_boxes_file,
    check_weights,
    look_at_images,
    named_coco,
    with_absolute_files,
)
from soco_core.storage import is_s3, join, read_text

BACKOFF_SECONDS = 1
HEADLINES = ("APbb", "top1")
"""What the first line of a benchmark's table holds."""


def run_here(
    build: Callable[..., Any], name: str, recipe: Recipe, benchmarks: Mapping[str, Recipe], options: argparse.Namespace
) -> int:
    """Check every input, and run the pipeline; return the exit status.

    Args:
        build: of the pipeline (:func:`pipelines.command.main`).
        name: of the pipeline's script.
        recipe: of the run.
        benchmarks: the recipe of each benchmark.
        options: of the command, checked.

    Raises:
        SocoError: an input is missing, or is not what it should be; nothing was written.
    """
    recipe = share_cores_of_shards(_checked(recipe, benchmarks, options), options)
    local_output = Path("runs", recipe.name).resolve()
    output = absolute(options.output or str(local_output))
    if not is_s3(output):
        local_output = Path(output)
    arguments = arguments_of(options, recipe.to_yaml(), output=output)
    refuse_rewritten(arguments)
    image = local_image(options)
    containers = prepare(image, recipe, arguments, output) if options.runner == "docker" else None
    shards = shard_tasks(options, Stages().shards, backoff_seconds=BACKOFF_SECONDS)
    outcome = run_local(
        build(shape_of(options, Tasks(image), shards), {}),
        arguments,
        log=local_output / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}.log",
        title=f"{name}: recipe {recipe.name}, results in {output}",
        retries=dict.fromkeys(RETRIED, shards.retries),
        containers=containers,
        debug=options.debug,
    )
    if isinstance(outcome, int):
        return outcome
    _show_report(outcome)
    return 0


def share_cores_of_shards(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Divide the cores among the shards that run side by side, unless the recipe says how many each takes."""
    if recipe.runtime.search_workers is not None:
        return recipe
    at_once = min(LOCAL_SHARDS, options.shards, options.parallel_shards or LOCAL_SHARDS)
    runtime = recipe.runtime.model_copy(update={"search_workers": max(1, usable_cores() // at_once)})
    return recipe.model_copy(update={"runtime": runtime})


def _checked(recipe: Recipe, benchmarks: Mapping[str, Recipe], options: argparse.Namespace) -> Recipe:
    """Look at every input; return the recipe, and leave the options, with absolute paths."""
    check_boxes_file(recipe)
    linear_images = options.linear_images or IMAGENET
    if options.images:
        look_at_images(options.images, recipe.images)
    # The demo's data set, which is not rendered yet, serves all that train a detector.
    needed = benchmarks if options.images else {name: each for name, each in benchmarks.items() if is_linear(name)}
    check_data(needed, options.coco or "", linear_images)
    if options.supervised:
        check_weights(options.supervised)
    options.compare = check_comparisons(options.compare, recipe)
    for option in ("images", "supervised"):
        setattr(options, option, absolute(getattr(options, option) or ""))
    options.coco = options.coco if named_coco(options.coco or "") else absolute(options.coco or "")
    if options.linear_images and is_place(options.linear_images):
        options.linear_images = absolute(options.linear_images)
    return with_absolute_files(recipe)


def _show_report(result: str) -> None:
    """Print the report's tables of benchmarks and where it lies, to standard output."""
    page = join(result, "report.md")
    title, tables = "", []
    for block in read_text(page).split("\n\n"):
        if block.startswith("## "):
            title = block.removeprefix("## ").strip()
        elif block.startswith("|") and any(word in block.partition("\n")[0] for word in HEADLINES):
            tables.append((title, block.rstrip()))
    for title, table in tables:
        print(*([f"{title}\n"] if len(tables) > 1 else []), table, sep="\n", end="\n\n")
    print(f"report: {join(result, 'report.html')}")
    print(f"        {page}")

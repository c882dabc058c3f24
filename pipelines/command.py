"""The command line that every pipeline has: compile, --local, --submit."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.compare import check_comparisons, parameters, read_comparisons
from pipelines.containers import prepare
from pipelines.local import refuse_rewritten, run_local
from pipelines.options import LOCAL_SHARDS, parse_options
from pipelines.proposals import RETRIED, ShardTasks
from pipelines.submit import check_endpoint, endpoint, submit
from soco_core.artifacts.benchmark import COLUMNS
from soco_core.config import Recipe
from soco_core.detection.coco import open_finetuning_data
from soco_core.engine.component import EXIT_INPUT
from soco_core.engine.setup import usable_cores
from soco_core.errors import InputError, SocoError, one_line
from soco_core.plan.inputs import (
    absolute,
    check_boxes_file,
    check_weights,
    look_at_images,
    named_coco,
    with_absolute_files,
)
from soco_core.recipes import load_recipe, named_recipes
from soco_core.storage import is_s3, join, read_text

LOCAL_BACKOFF_SECONDS = 1


def main(build: Callable[..., Any], name: str, argv: list[str] | None = None) -> int:
    """Compile, run or submit a pipeline; return the exit status.

    Args:
        build: takes image, demo, supervised, shard_tasks, comparisons and defaults, and returns a kfp pipeline.
        name: of the pipeline's script.
        argv: arguments; by default those of the process.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options = parse_options(name, arguments)
        recipe = load_recipe(options.recipe, options.set)
        options.compare = read_comparisons(options.compare, recipe)
        if options.local:
            return _local(build, name, recipe, options)
        return _submit(build, recipe, options) if options.submit else _compile(build, name, recipe, options)
    except SocoError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_INPUT


def _build(build: Callable[..., Any], options: argparse.Namespace, defaults: dict[str, str | int]) -> Any:
    shard_tasks = ShardTasks(
        parallel=options.parallel_shards,
        cpus=options.shard_cpus,
        memory=options.shard_memory,
        retries=options.shard_retries,
        backoff_seconds=LOCAL_BACKOFF_SECONDS if options.local else ShardTasks.backoff_seconds,
    )
    return build(
        image=options.image,
        demo=not options.images,
        supervised=bool(options.supervised),
        shard_tasks=shard_tasks,
        comparisons=options.compare,
        defaults=defaults,
    )


def _arguments(options: argparse.Namespace, recipe: str, output: str | None) -> dict[str, str | int]:
    """The pipeline's parameters, those that are given."""
    values: dict[str, str | int | None] = {
        "recipe": recipe,
        "images": options.images,
        "coco": options.coco,
        "supervised": options.supervised,
        **{name: each.weights for name, each in parameters(options.compare).items()},
        "output": output,
        "tracking_uri": options.tracking_uri,
        "shards": options.shards,
    }
    return {name: value for name, value in values.items() if value}


def _compile(build: Callable[..., Any], name: str, recipe: Recipe, options: argparse.Namespace) -> int:
    from kfp import compiler

    path = Path(options.yaml or f"{name}.yaml").resolve()
    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(f"--yaml {path}: its name must end in .yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name stays a name, which the user of a UI can change; overrides make it a recipe of its own. On
    # one line (JSON is YAML): kfp writes defaults into a comment, line breaks and all.
    named = options.recipe in named_recipes() and not options.set
    text = options.recipe if named else json.dumps(recipe.model_dump(mode="json"))
    compiler.Compiler().compile(_build(build, options, _arguments(options, text, options.output)), str(path))
    print(f"compiled to {path}")
    print(
        "next: upload it in the Kubeflow Pipelines UI, submit it with --submit --host URL, or run it here with --local"
    )
    return 0


def _submit(build: Callable[..., Any], recipe: Recipe, options: argparse.Namespace) -> int:
    address = endpoint(options.host)
    check_endpoint(address)
    if not options.output:
        raise InputError("--submit needs --output: an s3:// URI, or a path that every pod of the run mounts")
    arguments = _arguments(options, recipe.to_yaml(), options.output)
    link = submit(
        _build(build, options, {}),
        arguments,
        address=address,
        namespace=options.namespace,
        experiment=options.experiment or "soco",
        name=recipe.name,
    )
    print(f"submitted: {link}")
    return 0


def _local(build: Callable[..., Any], name: str, recipe: Recipe, options: argparse.Namespace) -> int:
    check_boxes_file(recipe)
    if options.images:
        look_at_images(options.images, recipe.images)
        open_finetuning_data(options.coco, recipe)
    if options.supervised:
        check_weights(options.supervised)
    options.compare = check_comparisons(options.compare, recipe)
    for option in ("images", "coco", "supervised"):
        value = getattr(options, option) or ""
        setattr(options, option, value if option == "coco" and named_coco(value) else absolute(value))
    recipe = share_cores_of_shards(with_absolute_files(recipe), options)
    local_output = Path("runs", recipe.name).resolve()
    output = absolute(options.output or str(local_output))
    if not is_s3(output):
        local_output = Path(output)
    arguments = _arguments(options, recipe.to_yaml(), output)
    refuse_rewritten(arguments)
    containers = prepare(options.image, recipe, arguments, output) if options.runner == "docker" else None
    outcome = run_local(
        _build(build, options, {}),
        arguments,
        log=local_output / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}.log",
        title=f"{name}: recipe {recipe.name}, results in {output}",
        retries=dict.fromkeys(RETRIED, options.shard_retries),
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


def _show_report(result: str) -> None:
    """Print the report's tables of AP and where it lies, to standard output."""
    page = join(result, "report.md")
    for block in read_text(page).split("\n\n"):
        if block.startswith("|") and COLUMNS[0] in block.partition("\n")[0]:
            print(block.rstrip(), end="\n\n")
    print(f"report: {join(result, 'report.html')}")
    print(f"        {page}")

"""The command line that every pipeline has: compile, --local, --submit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.benchmarks import load, of_benchmarks
from pipelines.cluster import Cluster, settle
from pipelines.compare import read_comparisons
from pipelines.here import run_here
from pipelines.options import parse_options
from pipelines.request import arguments_of
from pipelines.shape import Defaults, Shape
from pipelines.submission import submit_run
from soco_core.artifacts.disk import why_not_written
from soco_core.config import Recipe
from soco_core.engine.component import EXIT_INPUT
from soco_core.errors import InputError, SocoError, one_line
from soco_core.recipes import named_recipes

Build = Callable[[Shape, Defaults], Any]


def main(build: Build, name: str, argv: list[str] | None = None, *, evaluates: bool = True) -> int:
    """Compile, run or submit a pipeline; return the exit status.

    Args:
        build: takes a shape and the defaults of parameters, and returns a kfp pipeline.
        name: of the pipeline's script.
        argv: arguments; by default those of the process.
        evaluates: whether the pipeline has benchmarks.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options = parse_options(name, arguments, evaluates)
        recipe = load(options.recipe, options.set, options.benchmarks, options.data or "")
        # A setting that does not suit a benchmark is said here, not on the cluster.
        recipes = of_benchmarks(recipe, options.benchmarks, options.scale or "", options.set)
        options.compare = read_comparisons(options.compare, recipe)
        if options.local:
            return run_here(build, name, recipe, recipes if evaluates else {}, options)
        cluster = settle(options)
        if options.submit:
            return submit_run(build, recipe, options, cluster)
        return _compile(build, name, recipe, options, cluster)
    except SocoError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_INPUT


def _compile(build: Build, name: str, recipe: Recipe, options: argparse.Namespace, cluster: Cluster) -> int:
    from kfp import compiler

    path = Path(options.yaml or f"{name}.yaml").resolve()
    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(f"--yaml {path}: its name must end in .yaml")
    # A name stays a name, which the user of a UI can change; overrides make it a recipe of its own. On
    # one line (JSON is YAML): kfp writes defaults into a comment, line breaks and all.
    named = options.recipe in named_recipes() and not options.set and not options.data
    text = options.recipe if named else json.dumps(recipe.model_dump(mode="json"))
    defaults = arguments_of(options, text, **cluster.arguments)
    pipeline = build(cluster.shape(options), defaults)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(path))
    except OSError as error:
        why = why_not_written(path, error)
        raise InputError(f"--yaml {path}: cannot be written ({why}); name another file") from error
    print(f"compiled to {path}")
    print(
        "next: upload it in the Kubeflow Pipelines UI, submit it with --submit --host URL, or run it here with --local"
    )
    return 0

"""The command line that every pipeline has: compile, --local, --submit."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components import IMAGE
from pipelines.local import refuse_rewritten, run_local
from pipelines.submit import check_endpoint, endpoint, submit
from soco_core.artifacts.benchmark import COLUMNS
from soco_core.config import Recipe
from soco_core.detection.coco import open_coco
from soco_core.engine.component import EXIT_INPUT
from soco_core.errors import InputError, SocoError, one_line
from soco_core.plan.inputs import check_images, check_weights
from soco_core.recipes import load_recipe, named_recipes
from soco_core.storage import is_s3, join, read_text

ONLY_WITH = {
    "yaml": "neither --local nor --submit",
    "host": "--submit",
    "namespace": "--submit",
    "experiment": "--submit",
}


def main(build: Callable[..., Any], name: str, argv: list[str] | None = None) -> int:
    """Compile, run or submit a pipeline; return the exit status.

    Args:
        build: takes image, shards, demo, supervised and defaults, and returns a kfp pipeline.
        name: of the pipeline's script.
        argv: arguments; by default those of the process.
    """
    options = _parser(name).parse_args(argv)
    try:
        _check_options(options)
        recipe = load_recipe(options.recipe, options.set)
        if options.local:
            return _local(build, name, recipe, options)
        return _submit(build, recipe, options) if options.submit else _compile(build, name, recipe, options)
    except SocoError as error:
        if options.debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_INPUT


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{name}.py",
        description="Images in, a pretrained and evaluated detector and a report out. "
        "Without --local or --submit, compiles the pipeline to YAML.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="run on this machine, without a cluster")
    where.add_argument("--submit", action="store_true", help="run on a Kubeflow Pipelines endpoint")
    add = parser.add_argument
    add("--recipe", default="demo", metavar="NAME|FILE", help=f"one of {', '.join(named_recipes())}, or a YAML file")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a field; repeatable")
    add("--images", metavar="DIR", help="images to pretrain on (without it and --coco: the rendered demo data)")
    add("--coco", metavar="DIR", help="COCO-format data set: images/, annotations/instances_{train,val}.json")
    add("--supervised", metavar="FILE", help="ImageNet-supervised weights; adds a row to the report")
    add("--output", metavar="DIR", help="root of all results (--local: runs/<name of the recipe>)")
    add("--tracking-uri", default="", metavar="URI", help="MLflow (default: mlflow.db in the output directory)")
    add("--shards", type=int, default=2, metavar="N", help="parts in which proposals are computed (default: 2)")
    add("--image", default=IMAGE, help=f"container image of the stages on a cluster (default: {IMAGE})")
    add("--yaml", metavar="PATH", help=f"where to compile to (default: {name}.yaml)")
    add("--host", metavar="URL", help="endpoint to submit to (default: KFP_ENDPOINT, then KF_PIPELINES_ENDPOINT)")
    add("--namespace", help="Kubernetes namespace of the run, for an endpoint with several users")
    add("--experiment", help="experiment of the run (default: soco)")
    add("--debug", action="store_true", help="show every line and the traceback of an error")
    return parser


def _check_options(options: argparse.Namespace) -> None:
    mode = "--local" if options.local else "--submit" if options.submit else "neither --local nor --submit"
    for option, needed in ONLY_WITH.items():
        if getattr(options, option) and mode != needed:
            raise InputError(f"--{option} goes with {needed}")
    if bool(options.images) != bool(options.coco):
        raise InputError("--images and --coco belong together: give both, or neither for the rendered demo data")
    if options.shards < 1:
        raise InputError(f"--shards {options.shards}: at least 1")


def _build(build: Callable[..., Any], options: argparse.Namespace, defaults: dict[str, str]) -> Any:
    return build(
        image=options.image,
        shards=options.shards,
        demo=not options.images,
        supervised=bool(options.supervised),
        defaults=defaults,
    )


def _arguments(options: argparse.Namespace, recipe: str, output: str | None) -> dict[str, str]:
    """The pipeline's parameters, those that are given."""
    values = {
        "recipe": recipe,
        "images": options.images,
        "coco": options.coco,
        "supervised": options.supervised,
        "output": output,
        "tracking_uri": options.tracking_uri,
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
    if options.images:
        check_images(options.images)
        open_coco(options.coco)
    if options.supervised:
        check_weights(options.supervised)
    for option in ("images", "coco", "supervised"):
        if getattr(options, option):
            setattr(options, option, str(Path(getattr(options, option)).resolve()))
    local_output = Path("runs", recipe.name).resolve()
    output = options.output or str(local_output)
    if not is_s3(output):
        output = str(Path(output).resolve())
        local_output = Path(output)
    arguments = _arguments(options, recipe.to_yaml(), output)
    refuse_rewritten(arguments)
    outcome = run_local(
        _build(build, options, {}),
        arguments,
        log=local_output / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}.log",
        title=f"{name}: recipe {recipe.name}, results in {output}",
        debug=options.debug,
    )
    if isinstance(outcome, int):
        return outcome
    _show_report(outcome)
    return 0


def _show_report(result: str) -> None:
    """Print the report's tables of AP and where it lies, to standard output."""
    page = join(result, "report.md")
    for block in read_text(page).split("\n\n"):
        if block.startswith("|") and COLUMNS[0] in block.partition("\n")[0]:
            print(block.rstrip(), end="\n\n")
    print(f"report: {join(result, 'report.html')}")
    print(f"        {page}")

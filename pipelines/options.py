"""The options that every pipeline has, and what can be said against them before anything is looked at."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from pipelines.images import default_image
from pipelines.proposals import DEFAULT_SHARDS, ShardTasks
from soco_core.errors import InputError
from soco_core.recipes import named_recipes

ONLY_WITH = {
    "yaml": "neither --local nor --submit",
    "host": "--submit",
    "namespace": "--submit",
    "experiment": "--submit",
}
CPUS = re.compile(r"\d+m?|\d*\.\d+")
MEMORY = re.compile(r"[1-9]\d*[MGT]i?")
LOCAL_SHARDS = 2
"""Shards that kfp.local runs side by side, however many may."""


def parse_options(name: str, arguments: list[str]) -> argparse.Namespace:
    """Read a pipeline's command line.

    Args:
        name: of the pipeline's script.
        arguments: without the script.

    Raises:
        InputError: an option is unknown, has an impossible value, or does not go with another.
    """
    options = _parser(name).parse_args(arguments)
    _check(options)
    return options


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def _parser(name: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{name}.py",
        description="Images in, a pretrained and evaluated detector and a report out. "
        "Without --local or --submit, compiles the pipeline to YAML.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="run on this machine, without a cluster")
    parser.add_argument(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="with --local: each stage as a process (the default), or in a container of --image",
    )
    where.add_argument("--submit", action="store_true", help="run on a Kubeflow Pipelines endpoint")
    add = parser.add_argument
    add("--recipe", default="demo", metavar="NAME|FILE", help=f"one of {', '.join(named_recipes())}, or a YAML file")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a field; repeatable")
    add(
        "--images",
        metavar="DIR|URI",
        help="images to pretrain on: a folder, a pack, a COCO or VOC root, or an s3:// URI of one "
        "(without it and --coco: the rendered demo data)",
    )
    add(
        "--coco",
        metavar="DIR|NAME",
        help="COCO-format data set: images/, annotations/instances_{train,val}.json; or a name such as mini-coco-5 "
        "(`soco datasets list`)",
    )
    add("--supervised", metavar="FILE", help="ImageNet-supervised weights; adds a row to the report")
    add(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="another method's weights; adds a row. NAME: its layout (docs/weights.md), or the row; repeatable",
    )
    add("--output", metavar="DIR", help="root of all results (--local: runs/<name of the recipe>)")
    add("--tracking-uri", default="", metavar="URI", help="MLflow (default: mlflow.db in the output directory)")
    _add_shard_options(parser.add_argument_group("shards of the proposals"))
    add(
        "--image",
        default=default_image(),
        help="image of the stages, on a cluster and with --runner docker (default: what docker/build.py built "
        "last, %(default)s)",
    )
    add("--yaml", metavar="PATH", help=f"where to compile to (default: {name}.yaml)")
    add("--host", metavar="URL", help="endpoint to submit to (default: KFP_ENDPOINT, then KF_PIPELINES_ENDPOINT)")
    add("--namespace", help="Kubernetes namespace of the run, for an endpoint with several users")
    add("--experiment", help="experiment of the run (default: soco)")
    add("--debug", action="store_true", help="show every line and the traceback of an error")
    return parser


def _add_shard_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--shards",
        type=int,
        default=DEFAULT_SHARDS,
        metavar="N",
        help=f"parts in which proposals are computed; a parameter of the compiled pipeline (default: {DEFAULT_SHARDS})",
    )
    add(
        "--parallel-shards",
        type=int,
        default=ShardTasks.parallel,
        metavar="N",
        help=f"at most N side by side (default: no limit; --local runs {LOCAL_SHARDS} at a time at most)",
    )
    add(
        "--shard-retries",
        type=int,
        default=ShardTasks.retries,
        metavar="N",
        help=f"how often a shard that failed is tried again (default: {ShardTasks.retries})",
    )
    add(
        "--shard-cpus",
        default=ShardTasks.cpus,
        metavar="CPUS",
        help=f"cores of a shard's pod, such as 4 or 500m (default: {ShardTasks.cpus}; not with --local)",
    )
    add(
        "--shard-memory",
        default=ShardTasks.memory,
        metavar="SIZE",
        help=f"memory of a shard's pod, such as 8Gi (default: {ShardTasks.memory}; not with --local)",
    )


def _check(options: argparse.Namespace) -> None:
    mode = "--local" if options.local else "--submit" if options.submit else "neither --local nor --submit"
    for option, needed in ONLY_WITH.items():
        if getattr(options, option) and mode != needed:
            raise InputError(f"--{option} goes with {needed}")
    if options.runner != "process" and not options.local:
        raise InputError("--runner goes with --local")
    if bool(options.images) != bool(options.coco):
        raise InputError("--images and --coco belong together: give both, or neither for the rendered demo data")
    for option, least in {"shards": 1, "parallel_shards": 0, "shard_retries": 0}.items():
        value = getattr(options, option)
        if value < least:
            raise InputError(f"--{option.replace('_', '-')} {value}: at least {least}")
    if not CPUS.fullmatch(options.shard_cpus) or float(options.shard_cpus.rstrip("m")) == 0:
        raise InputError(f"--shard-cpus {options.shard_cpus}: give cores, such as 4, 0.5 or 500m (thousandths)")
    if not MEMORY.fullmatch(options.shard_memory):
        raise InputError(
            f"--shard-memory {options.shard_memory}: give a whole number with its unit, such as 8Gi or 900Mi"
        )

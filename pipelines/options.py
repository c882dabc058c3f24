"""The options that every pipeline has; pipelines/option_checks.py says what is wrong with them."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from pipelines.option_checks import check_options
from pipelines.proposals import DEFAULT_SHARDS, ShardTasks
from pipelines.site import FILE
from soco_core.errors import InputError
from soco_core.recipes import named_recipes

LOCAL_SHARDS = 2
"""Shards that kfp.local runs side by side, however many may."""


def parse_options(name: str, arguments: list[str], evaluates: bool = True) -> argparse.Namespace:
    """Read a pipeline's command line.

    Args:
        name: of the pipeline's script.
        arguments: without the script.
        evaluates: whether the pipeline has benchmarks; without, the options about them are refused.

    Raises:
        InputError: an option is unknown, has an impossible value, or does not go with another.
    """
    options = _parser(name, evaluates).parse_args(arguments)
    check_options(name, options, evaluates)
    return options


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def _parser(name: str, evaluates: bool) -> argparse.ArgumentParser:
    what = "a pretrained and evaluated detector" if evaluates else "a pretrained backbone, FPN and box head"
    parser = _Parser(
        prog=f"{name}.py",
        description=f"Images in, {what} and a report out. Without --local or --submit, compiles the pipeline to YAML.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="run on this machine, without a cluster")
    where.add_argument("--submit", action="store_true", help="run on a Kubeflow Pipelines endpoint")
    _add_inputs(parser.add_argument_group("what runs"))
    _add_benchmarks(parser.add_argument_group("benchmarks") if evaluates else parser, evaluates)
    _add_shards(parser.add_argument_group("shards of the proposals"))
    add = parser.add_argument
    add(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="with --local: each stage as a process (the default), or in a container of --image",
    )
    add("--yaml", metavar="PATH", help=f"where to compile to (default: {name}.yaml)")
    add("--debug", action="store_true", help="show every line and the traceback of an error")
    _add_pods(parser.add_argument_group("pods, settled when the pipeline is compiled (not with --local)"))
    _add_submission(parser.add_argument_group("with --submit"))
    return parser


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--recipe", default="demo", metavar="NAME|FILE", help=f"one of {', '.join(named_recipes())}, or a YAML file")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a field; repeatable")
    add(
        "--images",
        metavar="DIR|URI",
        help="images to pretrain on: a folder, a pack, a COCO or VOC root, or an s3:// URI of one "
        "(without it: the rendered demo data)",
    )
    add("--output", metavar="DIR", help="root of all results (--local: runs/<name of the recipe>)")
    add("--tracking-uri", default="", metavar="URI", help="MLflow (default: mlflow.db in the output directory)")


def _add_benchmarks(group: argparse._ActionsContainer, shown: bool) -> None:
    def add(option: str, *, help: str, **settings: Any) -> None:
        group.add_argument(option, help=help if shown else argparse.SUPPRESS, **settings)

    add(
        "--coco",
        metavar="DIR|NAME",
        help="COCO-format data set that detectors are finetuned on: images/, annotations/instances_{train,val}.json; "
        "or a name such as mini-coco-5 (`soco datasets list`); with --benchmarks, of all of them",
    )
    add("--supervised", metavar="FILE", help="ImageNet-supervised weights; adds a row to the report")
    add(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="another method's weights; adds a row. NAME: its layout (docs/weights.md), or the row; repeatable",
    )
    add(
        "--benchmarks",
        metavar="NAME,NAME",
        help="the paper's experiments (`soco benchmarks`) in place of the recipe's finetuning; all: every one",
    )
    add("--scale", metavar="PARTS", help="how --benchmarks are shortened, such as iterations=1/100,batch=1/4,size=1/4")
    add("--data", metavar="DIR", help="holds coco/, voc/, lvis/ and imagenet/, where --benchmarks find their data sets")
    add(
        "--linear-images", metavar="DIR", help="labelled images of the benchmark `linear` (default: imagenet of --data)"
    )


def _add_shards(group: argparse._ArgumentGroup) -> None:
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
        metavar="N",
        help=f"how often a shard that failed is tried again (default: {ShardTasks.retries})",
    )
    add(
        "--shard-cpus",
        metavar="CPUS",
        help=f"cores of a shard's pod, such as 4 or 500m (default: {ShardTasks.cpus}; not with --local)",
    )
    add(
        "--shard-memory",
        metavar="SIZE",
        help=f"memory of a shard's pod, such as 8Gi (default: {ShardTasks.memory}; not with --local)",
    )


def _add_pods(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--image",
        help="of the stages, also with --runner docker (default: SOCO_IMAGE, then what docker/build.py built last)",
    )
    add("--gpu-image", help="of the stages that train (default: the target cuda that docker/build.py built; --image)")
    add("--claim", action="append", default=[], metavar="NAME:PATH", help="mount a volume claim; repeatable")
    add(
        "--secret",
        action="append",
        default=[],
        metavar="NAME:KEY[=VARIABLE],...",
        help="keys of a Kubernetes secret as environment variables; repeatable",
    )
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of the stages; repeatable")
    add("--pull-secret", action="append", default=[], metavar="NAME", help="secret to pull images with; repeatable")
    add(
        "--nodes", type=int, metavar="N", help="pretrain in a PyTorchJob of N nodes; 0 (default): in the step's own pod"
    )
    add("--gpus-per-node", type=int, metavar="N", help="GPUs of each node of the PyTorchJob (default: 8)")
    add(
        "--defaults",
        metavar="FILE",
        help=f"what this site always gives (default: SOCO_PIPELINE_DEFAULTS, then {FILE.parent.name}/{FILE.name})",
    )


def _add_submission(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", metavar="URL", help="endpoint (default: KFP_ENDPOINT, KF_PIPELINES_ENDPOINT, then --defaults)")
    add("--context", metavar="NAME", help="of the kubeconfig; without --host, Kubeflow is reached through Kubernetes")
    add("--namespace", help="Kubernetes namespace of the run, for an endpoint with several users (KFP_NAMESPACE)")
    add("--experiment", help="experiment of the run (KFP_EXPERIMENT; default: soco)")
    add("--service-account", metavar="NAME", help="Kubernetes service account of the run")
    add("--token", metavar="FILE", help="file of the bearer token (default: the token in KFP_TOKEN)")
    add("--cookies", metavar="FILE", help="file of a session's cookies, NAME=VALUE (default: those in KFP_COOKIES)")
    add("--wait", action="store_true", help="until the run has ended; the exit status says how")

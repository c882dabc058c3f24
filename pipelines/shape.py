"""What of a pipeline is settled when it is compiled, and the parameters that a run may still choose."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.compare import MOST, Comparison
from pipelines.proposals import DEFAULT_SHARDS, ShardTasks
from pipelines.tasks import Tasks

HELP = {
    "recipe": "Name of a recipe (soco recipes), path or s3:// URI of a YAML file, or YAML text.",
    "images": "Images to pretrain on: a folder, a pack, a COCO or VOC root, or an s3:// URI of one.",
    "coco": "Data set that detectors are finetuned on: a folder, or a name such as mini-coco-5; empty: that of each "
    "benchmark.",
    "supervised": "File of ImageNet-supervised weights (a torchvision ResNet's state dict), or its s3:// URI.",
    "linear_images": "Labelled images of the linear evaluation: a folder with train/CLASS and val/CLASS, a pack, an "
    "s3:// URI, or imagenet.",
    "scale": "How the benchmarks are shortened, such as iterations=1/100,batch=1/4; empty: not.",
    "overrides": "JSON list of section.field=value, which go before the benchmarks' own settings.",
    "job": "JSON settings of the PyTorchJob that pretrains.",
    "output": "Root of all results: a path that every pod mounts, or an s3:// URI. The same one goes on where it was.",
    "tracking_uri": "MLflow server; empty: MLFLOW_TRACKING_URI of the pods. No password in it.",
    "shards": "Parts in which the proposals are computed, each in a pod of its own.",
    **{f"compare_{number}": f"Weights of method {number} to compare with." for number in range(1, MOST + 1)},
}
"""Shown in the Kubeflow UI beside each parameter."""
ALWAYS = {"tracking_uri": "", "shards": DEFAULT_SHARDS, "scale": "", "overrides": "[]", "linear_images": "imagenet"}
"""Defaults of parameters that no run need give."""

Defaults = Mapping[str, str | int]


@dataclass(frozen=True)
class Shape:
    """What of a pipeline is settled when it is compiled; it is unrolled, so that every task can be seen."""

    tasks: Tasks
    """Images and pods of the stages."""
    shards: ShardTasks
    """Limits, resources and retries of the proposals' shards."""
    demo: bool = True
    """Render images and a COCO-format data set instead of taking `images` and `coco`."""
    supervised: bool = False
    """Also finetune from the weights file `supervised`."""
    comparisons: Sequence[Comparison] = ()
    """Other methods' weights, each imported and then finetuned as a row of its own."""
    benchmarks: Sequence[str] = ("",)
    """Names of the paper's benchmarks; an empty one is the recipe's own."""
    job: bool = False
    """Pretrain in a PyTorchJob, whose settings are the parameter `job`."""


def with_parameters(stages: Callable[..., Any], names: Sequence[str], defaults: Defaults, summary: str) -> Any:
    """Make a pipeline's function one that kfp can read: it takes the parameters from signature and docstring.

    Args:
        stages: takes the parameters by position and returns the report's result directory.
        names: of the parameters that this DAG uses, in their order.
        defaults: values of parameters that a run need not give.
        summary: what the pipeline is, in one line.
    """
    known = {**ALWAYS, **defaults}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=int if name == "shards" else str,
            default=known.get(name, inspect.Parameter.empty),
        )
        for name in names
    ]
    stages.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]
    lines = [f"{name}: {HELP[name]}" for name in names]
    stages.__doc__ = f"{summary}\n\nArgs:\n{textwrap.indent(chr(10).join(lines), '    ')}"
    return stages

"""The part that every pipeline has: the plan, the proposals, pretraining and conversion."""
# No `from __future__ import annotations`: kfp reads the annotations of a pipeline as objects.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.convert.component import convert
from components.demo_data.component import demo_data
from components.plan.component import plan
from components.pretrain.component import pretrain
from pipelines.proposals import proposals_part
from pipelines.shape import Shape


@dataclass(frozen=True)
class Planned:
    """Outputs of the plan, and of the demo's data before it, or the parameters that take their place."""

    images: Any
    coco: Any
    """Data set that detectors are finetuned on; an empty text in a pipeline without any."""
    result: Any
    """The plan's result directory."""
    common: Mapping[str, Any]
    """What every later stage is given: recipe, tracking, output."""


@dataclass(frozen=True)
class Pretrained:
    """The result directories of the pretraining's stages."""

    proposals: Any
    pretrained: Any
    converted: Any


def input_names(shape: Shape, *data: str) -> list[str]:
    """Return the parameters that name the images, and `data`: none where the demo's are rendered."""
    return [] if shape.demo else ["images", *data]


def add_plan(shape: Shape, given: Mapping[str, Any], **more: Any) -> Planned:
    """Add the first stages: the demo's data where none are given, and the plan.

    Args:
        shape: what is settled.
        given: the pipeline's parameters by name.
        more: what else the component `plan` is given.
    """
    data = given
    if shape.demo:
        data = shape.tasks.add(demo_data, recipe=given["recipe"], output=given["output"]).outputs
    # The demo's data set has no use where no detector is trained.
    coco = "" if more.get("pretraining_alone") else data["coco"]
    planned = shape.tasks.add(
        plan,
        recipe=given["recipe"],
        images=data["images"],
        coco=coco,
        output=given["output"],
        tracking_uri=given["tracking_uri"],
        **more,
    ).outputs
    common = {"recipe": planned["recipe"], "tracking": planned["tracking"], "output": given["output"]}
    return Planned(data["images"], coco, planned["result"], common)


def pretraining_part(shape: Shape) -> Callable[[Mapping[str, Any], Planned], Pretrained]:
    """Prepare the tasks of proposals, pretraining and conversion, for a pipeline that is to be built.

    Returns:
        A function to call in the pipeline, with its parameters by name and what was planned.
    """
    run = shape.tasks.add
    propose_all = proposals_part(shape.tasks, shape.shards)

    def add(given: Mapping[str, Any], planned: Planned) -> Pretrained:
        proposals = propose_all(shards=given["shards"], images=planned.images, **planned.common)
        pretrained = run(
            pretrain,
            # The launcher of a job only waits for its pods.
            kind="launch" if shape.job else "pretrain",
            proposals=proposals,
            images=planned.images,
            **({"job": given["job"]} if shape.job else {}),
            **planned.common,
        ).output
        return Pretrained(proposals, pretrained, run(convert, pretrained=pretrained, **planned.common).output)

    return add

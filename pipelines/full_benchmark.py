"""The main job: images in, a pretrained and evaluated detector and a report out.

python pipelines/full_benchmark.py            compile to YAML
python pipelines/full_benchmark.py --local    run on this machine
python pipelines/full_benchmark.py --submit   run on a cluster
"""
# No `from __future__ import annotations`: kfp reads the annotations of a pipeline as objects.

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.convert.component import convert
from components.demo_data.component import demo_data
from components.finetune.component import finetune
from components.merge_proposals.component import merge_proposals
from components.plan.component import plan
from components.pretrain.component import pretrain
from components.propose.component import propose
from components.report.component import report

NAME = "soco-full-benchmark"


def build_pipeline(
    *, image: str, shards: int, demo: bool, supervised: bool, defaults: Mapping[str, str] | None = None
) -> Any:
    """Build the DAG; what is known now is unrolled, so that every task can be seen in it.

    Args:
        image: container image of the stages.
        shards: parts into which the images are divided for the proposals.
        demo: render images and a COCO-format data set instead of taking `images` and `coco`.
        supervised: also finetune from the weights file `supervised`.
        defaults: values of parameters that a run need not give.

    Returns:
        A kfp pipeline. Its parameters, all strings: recipe, output, tracking_uri; images and coco
        unless `demo`; supervised if `supervised`. It returns the report's result directory.
    """
    inputs = [*([] if demo else ["images", "coco"]), *(["supervised"] if supervised else [])]
    names = ["recipe", *inputs, "output", "tracking_uri"]

    def run(component: Any, name: str = "", **arguments: Any) -> Any:
        task = component(**arguments).set_container_image(image).set_caching_options(False)
        return task.set_display_name(name) if name else task

    # A pipeline of its own: in a loop, kfp.local replaces every output of a task outside the loop by the
    # loop's item, without a word. For the same reason the loop is over one flat list of strings.
    @dsl.pipeline(name="propose-all")
    def propose_all(recipe: str, images: str, output: str, tracking: str) -> str:
        with dsl.ParallelFor([f"{index}/{shards}" for index in range(shards)]) as shard:
            done = run(propose, shard=shard, recipe=recipe, images=images, output=output)
        return run(
            merge_proposals,
            shards=dsl.Collected(done.output),
            recipe=recipe,
            images=images,
            output=output,
            tracking=tracking,
        ).output

    def stages(*values: Any) -> Any:
        given = dict(zip(names, values, strict=True))
        weights = given.get("supervised", "")

        data = given
        if demo:
            data = run(demo_data, recipe=given["recipe"], output=given["output"]).outputs
        images, coco = data["images"], data["coco"]
        planned = run(
            plan,
            recipe=given["recipe"],
            images=images,
            coco=coco,
            supervised=weights,
            output=given["output"],
            tracking_uri=given["tracking_uri"],
        ).outputs
        common = {"recipe": planned["recipe"], "tracking": planned["tracking"], "output": given["output"]}

        proposals = propose_all(images=images, **common).output
        pretrained = run(pretrain, proposals=proposals, images=images, **common).output
        converted = run(convert, pretrained=pretrained, **common).output

        rows = {"Scratch": "scratch", **({"Supervised": weights} if supervised else {}), "SoCo": converted}
        benchmarks = {
            method.lower(): run(finetune, f"finetune {method}", method=method, init=init, coco=coco, **common).outputs[
                "Output"
            ]
            for method, init in rows.items()
        }
        return run(
            report, plan=planned["result"], proposals=proposals, pretrained=pretrained, **benchmarks, **common
        ).outputs["Output"]

    known = {"tracking_uri": "", **(defaults or {})}
    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=str, default=known.get(name, inspect.Parameter.empty)
        )
        for name in names
    ]
    # kfp reads a pipeline's parameters from its signature (only those that this DAG uses), and passes
    # them in that order.
    stages.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]
    return dsl.pipeline(name=NAME, description="Pretrain by SoCo, finetune, and report beside the paper.")(stages)


if __name__ == "__main__":
    from pipelines.command import main

    sys.exit(main(build_pipeline, "full_benchmark"))

"""The main job: images in, a pretrained and evaluated detector and a report out.

python pipelines/full_benchmark.py            compile to YAML
python pipelines/full_benchmark.py --local    run on this machine
python pipelines/full_benchmark.py --submit   run on a cluster
"""
# No `from __future__ import annotations`: kfp reads the annotations of a pipeline as objects.

import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from kfp import dsl

from components.convert.component import convert
from components.demo_data.component import demo_data
from components.finetune.component import finetune
from components.import_weights.component import import_weights
from components.plan.component import plan
from components.pretrain.component import pretrain
from components.report.component import report
from pipelines.compare import Comparison, parameters
from pipelines.proposals import DEFAULT_SHARDS, ShardTasks, proposals_part
from pipelines.tasks import add_task

NAME = "soco-full-benchmark"


def build_pipeline(
    *,
    image: str,
    demo: bool,
    supervised: bool,
    shard_tasks: ShardTasks,
    comparisons: Sequence[Comparison] = (),
    defaults: Mapping[str, str | int] | None = None,
) -> Any:
    """Build the DAG; what is known now is unrolled, so that every task can be seen in it.

    Args:
        image: container image of the stages.
        demo: render images and a COCO-format data set instead of taking `images` and `coco`.
        supervised: also finetune from the weights file `supervised`.
        shard_tasks: limits, resources and retries of the proposals' shards.
        comparisons: other methods' weights, each imported and then finetuned as a row of its own.
        defaults: values of parameters that a run need not give.

    Returns:
        A kfp pipeline. Its parameters: the int shards (parts into which the images are divided for the
        proposals), and the strings recipe, output, tracking_uri; images and coco unless `demo`; supervised
        if `supervised`; compare_1, compare_2 ... for the weights of `comparisons`. It returns the report's result
        directory.
    """
    inputs = [*([] if demo else ["images", "coco"]), *(["supervised"] if supervised else [])]
    compared = parameters(comparisons)
    names = ["recipe", *inputs, *compared, "output", "tracking_uri", "shards"]

    run = partial(add_task, image=image)
    propose_all = proposals_part(image, shard_tasks)

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

        # Before all that takes hours: a release that cannot be taken ends the run at once.
        imported = {
            each.row: run(
                import_weights,
                name=f"import {each.row}",
                weights=given[name],
                method=each.row,
                layout=each.layout,
                **common,
            ).output
            for name, each in compared.items()
        }
        proposals = propose_all(shards=given["shards"], images=images, **common)
        pretrained = run(pretrain, proposals=proposals, images=images, **common).output
        converted = run(convert, pretrained=pretrained, **common).output

        slots = dict(zip(imported, parameters(comparisons), strict=True))
        rows = {"Scratch": "scratch", **({"Supervised": weights} if supervised else {}), **imported, "SoCo": converted}
        benchmarks = {
            slots.get(method, method.lower()): run(
                finetune, name=f"finetune {method}", method=method, init=init, coco=coco, **common
            ).outputs["Output"]
            for method, init in rows.items()
        }
        return run(
            report, plan=planned["result"], proposals=proposals, pretrained=pretrained, **benchmarks, **common
        ).outputs["Output"]

    known = {"tracking_uri": "", "shards": DEFAULT_SHARDS, **(defaults or {})}
    signature = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=int if name == "shards" else str,
            default=known.get(name, inspect.Parameter.empty),
        )
        for name in names
    ]
    # kfp reads a pipeline's parameters from its signature (only those that this DAG uses), and passes
    # them in that order.
    stages.__signature__ = inspect.Signature(signature, return_annotation=str)  # type: ignore[attr-defined]
    return dsl.pipeline(name=NAME, description="Pretrain by SoCo, finetune, and report beside the paper.")(stages)


if __name__ == "__main__":
    from pipelines.command import main

    sys.exit(main(build_pipeline, "full_benchmark"))

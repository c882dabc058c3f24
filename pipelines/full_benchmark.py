"""The main job: images in, a pretrained and evaluated detector and a report out.

python pipelines/full_benchmark.py            compile to YAML
python pipelines/full_benchmark.py --local    run on this machine
python pipelines/full_benchmark.py --submit   run on a cluster
"""
# No `from __future__ import annotations`: kfp reads the annotations of a pipeline as objects.

import sys
from typing import Any

from kfp import dsl

from components.benchmark.component import benchmark
from components.finetune.component import finetune
from components.import_weights.component import import_weights
from components.linear.component import linear
from components.report.component import report
from pipelines.benchmarks import is_linear
from pipelines.compare import parameters
from pipelines.pretraining import add_plan, input_names, pretraining_part
from pipelines.shape import Defaults, Shape, with_parameters

NAME = "soco-full-benchmark"
SUMMARY = "Pretrain by SoCo, finetune, and report beside the paper."


def build_pipeline(shape: Shape, defaults: Defaults | None = None) -> Any:
    """Build the DAG.

    Args:
        shape: what is settled now.
        defaults: values of parameters that a run need not give.

    Returns:
        A kfp pipeline. Its parameters (:data:`pipelines.shape.HELP`) are those that the shape makes use of. It
        returns the report's result directory.
    """
    run = shape.tasks.add
    add_pretraining = pretraining_part(shape)
    named = [name for name in shape.benchmarks if name]
    on_images = [name for name in named if is_linear(name)]
    compared = parameters(shape.comparisons)
    chosen = ["scale", "overrides"] if named else []
    labelled = ["linear_images"] if on_images else []
    names = [
        "recipe",
        *input_names(shape, "coco"),
        *(["supervised"] if shape.supervised else []),
        *compared,
        *(*labelled, *chosen),
        *(["job"] if shape.job else []),
        *("output", "tracking_uri", "shards"),
    ]

    def stages(*values: Any) -> Any:
        given = dict(zip(names, values, strict=True))
        supervised = given.get("supervised", "")
        settings = {name: given[name] for name in chosen}
        planned = add_plan(
            shape,
            given,
            supervised=supervised,
            benchmarks=",".join(named),
            **{name: given[name] for name in (*chosen, *labelled)},
        )
        # Before all that takes hours: a release that cannot be taken ends the run at once.
        imported = {
            parameter: run(
                import_weights,
                label=f"import {each.row}",
                weights=given[parameter],
                method=each.row,
                layout=each.layout,
                **planned.common,
            ).output
            for parameter, each in compared.items()
        }
        made = add_pretraining(given, planned)
        inits = {
            "scratch": ("Scratch", "scratch"),
            **({"supervised": ("Supervised", supervised)} if shape.supervised else {}),
            **{parameter: (compared[parameter].row, result) for parameter, result in imported.items()},
            "soco": ("SoCo", made.converted),
        }
        of_pretraining = {"proposals": made.proposals, "pretrained": made.pretrained}

        def rows(name: str) -> dict[str, Any]:
            """Evaluate all weights on one benchmark; return each result by the parameter that takes it."""
            of_benchmark = {"benchmark": name, **settings} if name else {}
            if name in on_images:
                component, data = linear, {"images": given["linear_images"]}
            else:
                component, data = finetune, {"coco": planned.coco}
            label = "linear" if name in on_images else " ".join(filter(None, ("finetune", name)))
            return {
                row: run(
                    component,
                    kind="gpu",
                    label=f"{label} {method}",
                    method=method,
                    init=init,
                    **data,
                    **of_benchmark,
                    **planned.common,
                ).outputs["Output"]
                for row, (method, init) in inits.items()
            }

        tables = {
            f"benchmark_{number}": run(
                benchmark, label=f"benchmark {name}".strip(), name=name, **rows(name), **of_pretraining
            ).outputs["Output"]
            for number, name in enumerate(shape.benchmarks, 1)
        }
        return run(
            report, plan=planned.result, converted=made.converted, **of_pretraining, **tables, **planned.common
        ).outputs["Output"]

    known: Defaults = {**({"coco": ""} if named else {}), **(defaults or {})}
    return dsl.pipeline(name=NAME)(with_parameters(stages, names, known, SUMMARY))


if __name__ == "__main__":
    from pipelines.command import main

    sys.exit(main(build_pipeline, "full_benchmark"))

"""Pretraining alone: images in, weights for other frameworks and a short report out.

python pipelines/pretrain_only.py            compile to YAML
python pipelines/pretrain_only.py --local    run on this machine
python pipelines/pretrain_only.py --submit   run on a cluster
"""
# No `from __future__ import annotations`: kfp reads the annotations of a pipeline as objects.

import sys
from typing import Any

from kfp import dsl

from components.report.component import report
from pipelines.pretraining import add_plan, input_names, pretraining_part
from pipelines.shape import Defaults, Shape, with_parameters

NAME = "soco-pretrain-only"
SUMMARY = "Pretrain by SoCo and convert the weights; a report on the pretraining."


def build_pipeline(shape: Shape, defaults: Defaults | None = None) -> Any:
    """Build the DAG.

    Args:
        shape: what is settled now; no benchmark of it is looked at.
        defaults: values of parameters that a run need not give.

    Returns:
        A kfp pipeline that returns the report's result directory.
    """
    add_pretraining = pretraining_part(shape)
    job = ["job"] if shape.job else []
    names = ["recipe", *input_names(shape), *job, "output", "tracking_uri", "shards"]

    def stages(*values: Any) -> Any:
        given = dict(zip(names, values, strict=True))
        planned = add_plan(shape, given, pretraining_alone=True)
        made = add_pretraining(given, planned)
        return shape.tasks.add(
            report,
            plan=planned.result,
            proposals=made.proposals,
            pretrained=made.pretrained,
            converted=made.converted,
            **planned.common,
        ).outputs["Output"]

    return dsl.pipeline(name=NAME)(with_parameters(stages, names, defaults or {}, SUMMARY))


if __name__ == "__main__":
    from pipelines.command import main

    sys.exit(main(build_pipeline, "pretrain_only", evaluates=False))

"""Component: the report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def report(
    recipe: str,
    plan: str,
    proposals: str,
    pretrained: str,
    scratch: str,
    soco: str,
    output: str,
    html: dsl.Output[dsl.HTML],
    supervised: str = "",
    tracking: str = "",
) -> str:
    """Write the tables beside the paper's, and close the MLflow parent run.

    Args:
        recipe: the resolved recipe as YAML text.
        plan: result directory of the plan.
        proposals: result directory of the proposals.
        pretrained: result directory of the pretraining.
        scratch: result directory of the benchmark from scratch.
        soco: result directory of the benchmark from SoCo's weights.
        output: root of all results.
        html: the report, for the Kubeflow UI.
        supervised: result directory of the benchmark from supervised weights; empty for none.
        tracking: the tracking context as JSON; empty for none.

    Returns:
        The report's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("report") as stage:
        from pathlib import Path

        from soco_core.plan.stage import end_run
        from soco_core.report.stage import report as write
        from soco_core.tracking import TrackingContext

        result = write(
            read_recipe(recipe),
            benchmarks=[benchmark for benchmark in (scratch, supervised, soco) if benchmark],
            output=output,
            pretrained=pretrained,
            proposals=proposals,
            tracking=TrackingContext.from_json(tracking),
        )
        Path(html.path).write_bytes((result.path / "report.html").read_bytes())
        end_run(plan, succeeded=True)
        stage.result = result.uri
    return stage.result

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
    compare_1: str = "",
    compare_2: str = "",
    compare_3: str = "",
    compare_4: str = "",
    compare_5: str = "",
    compare_6: str = "",
    compare_7: str = "",
    compare_8: str = "",
    compare_9: str = "",
    compare_10: str = "",
    compare_11: str = "",
    compare_12: str = "",
    compare_13: str = "",
    compare_14: str = "",
    compare_15: str = "",
    compare_16: str = "",
    tracking: str = "",
) -> str:
    """Write the tables beside the paper's, and close the MLflow parent run.

    Each row has a parameter of its own: a cluster does not fill in the outputs of tasks inside a list reliably
    (kubeflow/pipelines#11035).

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
        compare_1: result directory of the benchmark of the first method compared with; empty for none. So on to
            compare_16.
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

        compared = (
            compare_1,
            compare_2,
            compare_3,
            compare_4,
            compare_5,
            compare_6,
            compare_7,
            compare_8,
            compare_9,
            compare_10,
            compare_11,
            compare_12,
            compare_13,
            compare_14,
            compare_15,
            compare_16,
        )
        result = write(
            read_recipe(recipe),
            benchmarks=[benchmark for benchmark in (scratch, supervised, *compared, soco) if benchmark],
            output=output,
            pretrained=pretrained,
            proposals=proposals,
            tracking=TrackingContext.from_json(tracking),
        )
        Path(html.path).write_bytes((result.path / "report.html").read_bytes())
        end_run(plan, succeeded=True)
        stage.result = result.uri
    return stage.result

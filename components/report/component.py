"""Component: the report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def report(
    recipe: str,
    plan: str,
    proposals: str,
    pretrained: str,
    output: str,
    html: dsl.Output[dsl.HTML],
    markdown: dsl.Output[dsl.Markdown],
    benchmark_1: str = "[]",
    benchmark_2: str = "[]",
    benchmark_3: str = "[]",
    benchmark_4: str = "[]",
    benchmark_5: str = "[]",
    benchmark_6: str = "[]",
    benchmark_7: str = "[]",
    benchmark_8: str = "[]",
    benchmark_9: str = "[]",
    benchmark_10: str = "[]",
    benchmark_11: str = "[]",
    benchmark_12: str = "[]",
    benchmark_13: str = "[]",
    benchmark_14: str = "[]",
    benchmark_15: str = "[]",
    benchmark_16: str = "[]",
    converted: str = "",
    tracking: str = "",
) -> str:
    """Write all tables beside the paper's, and close the MLflow parent run.

    Each benchmark has a parameter of its own: a cluster does not fill in the outputs of tasks inside a list reliably
    (kubeflow/pipelines#11035).

    Args:
        recipe: the resolved recipe as YAML text.
        plan: result directory of the plan.
        proposals: result directory of the proposals.
        pretrained: result directory of the pretraining.
        output: root of all results.
        html: the report, for the Kubeflow UI.
        markdown: the same, without its pictures.
        benchmark_1: the first benchmark's rows, a JSON list of result directories. So on to benchmark_16.
        converted: result directory of the conversion, whose weights are listed; empty: they are not.
        tracking: the tracking context as JSON; empty for none.

    Returns:
        The report's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("report") as stage:
        import json
        from pathlib import Path

        from soco_core.plan.stage import end_run
        from soco_core.report.stage import report as write
        from soco_core.storage import join, read_bytes, read_text
        from soco_core.tracking import TrackingContext

        benchmarks = (
            benchmark_1,
            benchmark_2,
            benchmark_3,
            benchmark_4,
            benchmark_5,
            benchmark_6,
            benchmark_7,
            benchmark_8,
            benchmark_9,
            benchmark_10,
            benchmark_11,
            benchmark_12,
            benchmark_13,
            benchmark_14,
            benchmark_15,
            benchmark_16,
        )
        result = write(
            read_recipe(recipe),
            benchmarks=[row for rows in benchmarks for row in json.loads(rows)],
            output=output,
            pretrained=pretrained,
            proposals=proposals,
            converted=converted or None,
            tracking=TrackingContext.from_json(tracking),
        )
        # A result that was whole already may lie on S3 alone.
        Path(html.path).write_bytes(read_bytes(join(result.uri, "report.html")))
        lines = read_text(join(result.uri, "report.md")).splitlines(keepends=True)
        Path(markdown.path).write_text("".join(line for line in lines if not line.startswith("![")), encoding="utf-8")
        end_run(plan, succeeded=True)
        stage.result = result.uri
    return stage.result

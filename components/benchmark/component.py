"""Component: the rows of one benchmark beside the paper's."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def benchmark(
    name: str,
    pretrained: str,
    proposals: str,
    scratch: str,
    soco: str,
    metrics: dsl.Output[dsl.Metrics],
    html: dsl.Output[dsl.HTML],
    markdown: dsl.Output[dsl.Markdown],
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
) -> str:
    """Put all rows of one benchmark into one table beside the paper's, for the Kubeflow UI, and hand them on together.

    Each row has a parameter of its own: a cluster does not fill in the outputs of tasks inside a list reliably
    (kubeflow/pipelines#11035).

    Args:
        name: of the benchmark; empty: the recipe's own.
        pretrained: result directory of the pretraining.
        proposals: result directory of the proposals.
        scratch: result directory of the benchmark from scratch.
        soco: result directory of the benchmark from SoCo's weights.
        metrics: every number as ROW COLUMN, for the Kubeflow UI.
        html: the table, for the Kubeflow UI.
        markdown: the same.
        supervised: result directory of the benchmark from supervised weights; empty for none.
        compare_1: result directory of the benchmark of the first method compared with; empty for none. So on to
            compare_16.

    Returns:
        JSON list of the rows' result directories, for the report.
    """
    from soco_core.engine.component import stage_process

    with stage_process(f"benchmark {name}" if name else "benchmark") as stage:
        import json
        from pathlib import Path

        from soco_core.report.stage import summarise

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
        rows = [row for row in (scratch, supervised, *compared, soco) if row]
        summary = summarise(rows, pretrained=pretrained, proposals=proposals)
        for key, value in summary.metrics.items():
            metrics.log_metric(key, value)
        Path(html.path).write_text(summary.html, encoding="utf-8")
        Path(markdown.path).write_text(summary.markdown, encoding="utf-8")
        stage.result = f"{len(rows)} rows"
    return json.dumps(rows)

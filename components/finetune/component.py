"""Component: finetuning and evaluation of a detector."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def finetune(
    recipe: str,
    coco: str,
    method: str,
    init: str,
    output: str,
    metrics: dsl.Output[dsl.Metrics],
    tracking: str = "",
    benchmark: str = "",
    scale: str = "",
    overrides: str = "[]",
) -> str:
    """Finetune a detector on a COCO-format data set and evaluate it.

    Args:
        recipe: the resolved recipe as YAML text.
        coco: folder of the COCO-format data set, or a name such as mini-coco-5; empty: the benchmark's.
        method: row of the report's table: Scratch, Supervised, SoCo, or another method's.
        init: ``scratch``, a weights file, or the result directory of a conversion or an import.
        output: root of all results.
        metrics: the paper's columns, for the Kubeflow UI.
        tracking: the tracking context as JSON; empty for none.
        benchmark: one of the paper's benchmarks by name; empty: the recipe's own.
        scale: how the benchmark is shortened; empty: not.
        overrides: JSON list of section.field=value, which go before the benchmark's own settings.

    Returns:
        The benchmark's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process(f"finetune {benchmark} {method}" if benchmark else f"finetune {method}") as stage:
        import json

        from soco_core.artifacts.benchmark import BenchmarkResult
        from soco_core.benchmarks.choose import of_benchmark
        from soco_core.detection.launched import finetune as train
        from soco_core.storage import join
        from soco_core.tracking import TrackingContext

        result = train(
            of_benchmark(read_recipe(recipe), benchmark, scale, json.loads(overrides)),
            coco=coco,
            init=init,
            output=output,
            tracking=TrackingContext.from_json(tracking),
            method=method,
        )
        # A result that was whole already may lie on S3 alone.
        for name, value in BenchmarkResult.read(join(result.uri, "metrics.json")).metrics.items():
            if value is not None:
                metrics.log_metric(name, value)
        stage.result = result.uri
    return stage.result

"""Component: linear evaluation of a backbone on labelled images."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def linear(
    recipe: str,
    images: str,
    method: str,
    init: str,
    output: str,
    metrics: dsl.Output[dsl.Metrics],
    tracking: str = "",
    benchmark: str = "linear",
    scale: str = "",
    overrides: str = "[]",
) -> str:
    """Evaluate a backbone by a linear classifier and by nearest neighbours.

    Args:
        recipe: the resolved recipe as YAML text.
        images: folder, S3 URI or pack with train/CLASS/ and val/CLASS/, or ``imagenet``.
        method: row of the report's table: Scratch, Supervised or SoCo.
        init: ``scratch``, a weights file, or the result directory of a conversion.
        output: root of all results.
        metrics: top-1, top-5 and k-NN accuracy, for the Kubeflow UI.
        tracking: the tracking context as JSON; empty for none.
        benchmark: linear.
        scale: how the benchmark is shortened; empty: not.
        overrides: JSON list of section.field=value, which go before the benchmark's own settings.

    Returns:
        The benchmark's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process(f"linear {method}") as stage:
        import json

        from soco_core.artifacts.benchmark import BenchmarkResult
        from soco_core.benchmarks.choose import of_benchmark
        from soco_core.linear.launched import linear as evaluate
        from soco_core.storage import join
        from soco_core.tracking import TrackingContext

        result = evaluate(
            of_benchmark(read_recipe(recipe), benchmark, scale, json.loads(overrides)),
            images=images,
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

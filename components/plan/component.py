"""Component: check the inputs and open the run."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan(
    recipe: str,
    images: str,
    output: str,
    coco: str = "",
    supervised: str = "",
    tracking_uri: str = "",
    benchmarks: str = "",
    scale: str = "",
    overrides: str = "[]",
    linear_images: str = "imagenet",
    pretraining_alone: bool = False,
) -> NamedTuple("Outputs", [("recipe", str), ("tracking", str), ("result", str)]):  # type: ignore[valid-type]
    """Check the inputs, resolve the recipe, and open the MLflow parent run.

    Args:
        recipe: name of a recipe, path of a YAML file, or YAML text.
        images: image set to pretrain on.
        output: root of all results.
        coco: folder of the COCO-format data set, or a name such as mini-coco-5; empty: that of each benchmark.
        supervised: file of ImageNet-supervised weights; empty for none.
        tracking_uri: MLflow tracking URI; empty for the default.
        benchmarks: names of the paper's benchmarks, with commas between; empty: the recipe's own.
        scale: how the benchmarks are shortened; empty: not.
        overrides: JSON list of section.field=value, which go before the benchmarks' own settings.
        linear_images: labelled images of the benchmark linear, or imagenet.
        pretraining_alone: no benchmark follows.

    Returns:
        recipe: the resolved recipe as YAML text; tracking: the tracking context as JSON, empty for
        none; result: the plan's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("plan") as stage:
        import json

        from soco_core.benchmarks.choose import of_benchmark
        from soco_core.benchmarks.table import named_benchmark
        from soco_core.detection.coco import open_finetuning_data
        from soco_core.linear.data import open_labelled_images
        from soco_core.plan.stage import plan as settle

        resolved = read_recipe(recipe)
        names = [] if pretraining_alone else benchmarks.split(",")
        chosen = {name: of_benchmark(resolved, name, scale, json.loads(overrides)) for name in names}
        opened = set()
        for name, each in chosen.items():
            # Several schedules are of one data set, which takes long to read.
            needed = (each.finetune.has_masks, coco or (name and named_benchmark(name).data))
            if name and named_benchmark(name).linear:
                open_labelled_images(linear_images, each.datasets)
            elif needed not in opened:
                open_finetuning_data(coco, each)
                opened.add(needed)
        settled = settle(
            resolved,
            images=images,
            coco=coco,
            output=output,
            supervised=supervised,
            tracking_uri=tracking_uri,
            benchmarks=list(chosen.values()) if benchmarks or pretraining_alone else None,
        )
        stage.result = settled.result.uri
    tracking = settled.tracking.to_json() if settled.tracking else ""
    return (settled.recipe.to_yaml(), tracking, stage.result)

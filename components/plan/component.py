"""Component: check the inputs and open the run."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan(
    recipe: str,
    images: str,
    coco: str,
    output: str,
    supervised: str = "",
    tracking_uri: str = "",
) -> NamedTuple("Outputs", [("recipe", str), ("tracking", str), ("result", str)]):  # type: ignore[valid-type]
    """Check the inputs, resolve the recipe, and open the MLflow parent run.

    Args:
        recipe: name of a recipe, path of a YAML file, or YAML text.
        images: image set to pretrain on.
        coco: folder of the COCO-format data set, or a name such as mini-coco-5.
        output: root of all results.
        supervised: file of ImageNet-supervised weights; empty for none.
        tracking_uri: MLflow tracking URI; empty for the default.

    Returns:
        recipe: the resolved recipe as YAML text; tracking: the tracking context as JSON, empty for
        none; result: the plan's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("plan") as stage:
        from soco_core.detection.coco import open_finetuning_data
        from soco_core.plan.stage import plan as settle

        resolved = read_recipe(recipe)
        open_finetuning_data(coco, resolved)
        settled = settle(
            resolved,
            images=images,
            coco=coco,
            output=output,
            supervised=supervised,
            tracking_uri=tracking_uri,
        )
        stage.result = settled.result.uri
    tracking = settled.tracking.to_json() if settled.tracking else ""
    return (settled.recipe.to_yaml(), tracking, stage.result)

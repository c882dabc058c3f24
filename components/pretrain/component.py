"""Component: pretraining."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def pretrain(recipe: str, proposals: str, images: str, output: str, tracking: str = "", job: str = "") -> str:
    """Pretrain backbone, FPN and box head by the paper's method.

    Args:
        recipe: the resolved recipe as YAML text.
        proposals: result directory of the proposals.
        images: image set to pretrain on.
        output: root of all results.
        tracking: the tracking context as JSON; empty for none.
        job: settings of a PyTorchJob as JSON, launched from here; empty to train in this process.

    Returns:
        The pretraining's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("pretrain") as stage:
        from soco_core.launch import JobSettings
        from soco_core.pretrain.launched import pretrain as train
        from soco_core.tracking import TrackingContext

        stage.result = train(
            read_recipe(recipe),
            proposals=proposals,
            images=images,
            output=output,
            tracking=TrackingContext.from_json(tracking),
            job=JobSettings.from_json(job),
        ).uri
    return stage.result

"""Component: merge the shards of the proposals."""

from typing import List  # noqa: UP035

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def merge_proposals(
    shards: List[str],  # noqa: UP006
    plan: str,
    recipe: str,
    images: str,
    output: str,
    tracking: str = "",
) -> str:
    """Check that every image is in one shard, and write the proposals that pretraining reads.

    Args:
        shards: the finished shards.
        plan: path or URI of the list of images, as plan_proposals gave it.
        recipe: the resolved recipe as YAML text.
        images: image set to pretrain on.
        output: root of all results.
        tracking: the tracking context as JSON; empty for none.

    Returns:
        The proposals' result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("merge_proposals") as stage:
        from soco_core.proposals.stage import merge_shards
        from soco_core.tracking import TrackingContext

        stage.result = merge_shards(
            read_recipe(recipe),
            images=images,
            output=output,
            count=len(shards),
            plan=plan,
            tracking=TrackingContext.from_json(tracking),
        ).uri
    return stage.result

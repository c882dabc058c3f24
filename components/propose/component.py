"""Component: one shard of the proposals."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def propose(shard: str, plan: str, recipe: str, images: str, output: str) -> str:
    """Find the proposals of one shard of the images.

    Args:
        shard: ``I/N``, the shard's number (from 1) and how many there are.
        plan: path or URI of the list of images, as plan_proposals gave it.
        recipe: the resolved recipe as YAML text.
        images: image set to pretrain on.
        output: root of all results.

    Returns:
        The shard, as it was given: all of them together stay short, however many they are.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process(f"propose {shard}") as stage:
        from soco_core.proposals.stage import propose_shard

        number, count = map(int, shard.split("/"))
        stage.result = propose_shard(
            read_recipe(recipe), images=images, output=output, index=number - 1, count=count, plan=plan
        )
    return shard

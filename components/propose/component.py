"""Component: one shard of the proposals."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def propose(shard: str, recipe: str, images: str, output: str) -> str:
    """Run selective search on one shard of the images.

    Args:
        shard: ``I/N``, the shard's number (from 0) and how many there are.
        recipe: the resolved recipe as YAML text.
        images: folder of images to pretrain on.
        output: root of all results.

    Returns:
        The result directory that the shards share.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process(f"propose {shard}") as stage:
        from soco_core.proposals.stage import propose_shard

        index, count = (int(number) for number in shard.split("/"))
        stage.result = propose_shard(read_recipe(recipe), images=images, output=output, index=index, count=count)
    return stage.result

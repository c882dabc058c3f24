"""Component: divide the images into shards."""

from typing import List, NamedTuple  # noqa: UP035

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan_proposals(
    count: int,
    recipe: str,
    images: str,
    output: str,
) -> NamedTuple("Outputs", [("shards", List[str]), ("plan", str)]):  # type: ignore[valid-type]  # noqa: UP006
    """List the images once, for all shards of the proposals.

    Args:
        count: number of shards.
        recipe: the resolved recipe as YAML text.
        images: image set to pretrain on.
        output: root of all results.

    Returns:
        shards: ``I/N`` for each shard, its number (from 1) and how many there are; plan: path or URI of
        the list of images, for the shards and their merge.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("plan_proposals") as stage:
        from soco_core.proposals.stage import plan_shards

        stage.result = plan_shards(read_recipe(recipe), images=images, output=output, count=count)
    return ([f"{number}/{count}" for number in range(1, count + 1)], stage.result)

"""Component: render the demo's images."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def demo_data(recipe: str, output: str) -> NamedTuple("Outputs", [("images", str), ("coco", str)]):  # type: ignore[valid-type]
    """Render a COCO-format data set and images to pretrain on.

    Args:
        recipe: name of a recipe, path of a YAML file, or YAML text.
        output: root of all results.

    Returns:
        images: folder of images to pretrain on; coco: folder of the COCO-format data set.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("demo_data") as stage:
        from soco_core.demo_data.stage import demo_data as render
        from soco_core.storage import join

        result = render(read_recipe(recipe), output=output)
        stage.result = result.uri
    return (join(result.uri, "unlabelled"), result.uri)

"""Component: conversion of the weights."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def convert(recipe: str, pretrained: str, output: str, tracking: str = "") -> str:
    """Export the pretrained weights, with a coverage report for each format.

    Args:
        recipe: the resolved recipe as YAML text.
        pretrained: result directory of the pretraining.
        output: root of all results.
        tracking: the tracking context as JSON; empty for none.

    Returns:
        The conversion's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process("convert") as stage:
        from soco_core.convert.stage import convert as export
        from soco_core.tracking import TrackingContext

        context = TrackingContext.from_json(tracking)
        stage.result = export(read_recipe(recipe), pretrained=pretrained, output=output, tracking=context).uri
    return stage.result

"""Component: import of another method's weights."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def import_weights(recipe: str, weights: str, method: str, output: str, layout: str = "", tracking: str = "") -> str:
    """Take over another method's backbone under canonical names, with a coverage report.

    Args:
        recipe: the resolved recipe as YAML text.
        weights: file of the release, or its S3 URI.
        method: row of the table.
        output: root of all results.
        layout: the release's layout; empty: told by its keys.
        tracking: the tracking context as JSON; empty for none.

    Returns:
        The import's result directory.
    """
    from soco_core.engine.component import read_recipe, stage_process

    with stage_process(f"import {method}") as stage:
        from soco_core.convert.import_stage import import_foreign
        from soco_core.tracking import TrackingContext

        stage.result = import_foreign(
            read_recipe(recipe),
            weights=weights,
            output=output,
            layout=layout or None,
            name=method,
            tracking=TrackingContext.from_json(tracking),
        ).uri
    return stage.result

"""What a recipe says in vain, or what it is not although it is named so; said before a pretraining begins."""

from __future__ import annotations

from soco_core.config import ModelConfig, Recipe, ViewsConfig


def remarks(recipe: Recipe) -> list[str]:
    """Return a line for each size that is set and not used, and one for a C4 that is not SoCo-C4.

    They are no errors: sizes are often set together for several recipes, or left over from the one that was changed.
    """
    views, model = recipe.views, recipe.model
    lines = []
    if not views.fourth_view and views.fourth_size != ViewsConfig().fourth_size:
        lines.append(f"views.fourth_size ({views.fourth_size}) does nothing without views.fourth_view")
    if views.third_view == "none" and views.small_size != ViewsConfig().small_size:
        lines.append(f"views.small_size ({views.small_size}) does nothing with views.third_view `none`")
    if model.architecture == "c4":
        if model.head_convs != ModelConfig().head_convs:
            lines.append(
                f"model.head_convs ({model.head_convs}) does nothing with model.architecture `c4`, whose head is the "
                "fifth residual block"
            )
        if views.third_view != "none" or views.fourth_view or model.roi_size != 14:
            lines.append(
                "model.architecture `c4` is SoCo-C4 only with two views (views.third_view: none, no views.fourth_view) "
                "and model.roi_size 14; the recipe soco-c4-100ep has them"
            )
    return lines

"""Whether the proposals that a pretraining is given are those that its recipe asks for (Table 5c)."""

from __future__ import annotations

from soco_core.artifacts.result import RECIPE, ResultDirectory
from soco_core.config import ProposalsConfig, Recipe
from soco_core.recipes import RecipeError, load_recipe


def as_proposed(recipe: Recipe, proposed: ResultDirectory) -> tuple[Recipe, str]:
    """Compare the recipe's section `proposals` with that of a result of `soco propose`, which counts.

    Args:
        recipe: the resolved recipe of a pretraining.
        proposed: the proposals that it is given.

    Returns:
        The recipe with the section that the proposals were made with, and one line on what differs: empty if nothing
        does, or if boxes were imported for a recipe that leaves the section as it is by default.
    """
    try:
        made = load_recipe(str(proposed.path / RECIPE)).proposals
    except RecipeError:  # another version of soco wrote it
        return recipe, ""
    wanted = recipe.proposals
    used = recipe.model_copy(update={"proposals": made})
    names = [name for name in ProposalsConfig.model_fields if getattr(made, name) != getattr(wanted, name)]
    if not names or (made.engine == "import" and wanted == ProposalsConfig()):
        return used, ""
    name, more = names[0], f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return used, (
        f"proposals.{name} is {getattr(wanted, name)!r} in the recipe {recipe.name}, but {proposed.uri} was made with "
        f"{getattr(made, name)!r}{more}. Those boxes count; for the recipe's own run `soco propose` with it, and give "
        "that result"
    )

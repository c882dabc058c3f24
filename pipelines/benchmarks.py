"""The benchmarks that a pipeline is unrolled over: ``--benchmarks NAME,NAME``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soco_core.benchmarks.choose import SECTION, of_benchmark
from soco_core.benchmarks.table import BENCHMARKS, named_benchmark
from soco_core.config import Recipe
from soco_core.datasets.published import named
from soco_core.detection.coco import open_finetuning_data
from soco_core.errors import InputError
from soco_core.linear.data import open_labelled_images
from soco_core.recipes import load_recipe
from soco_core.storage import join

ALL = "all"
MOST = 16
"""As many parameters the report has for them."""
IMAGENET = "imagenet"


def read_names(text: str | None) -> list[str]:
    """Read what ``--benchmarks`` was given; without it, none.

    Raises:
        InputError: there is no such benchmark, or one is named twice.
    """
    if text is None:
        return []
    names = [item.name for item in BENCHMARKS] if text.strip() == ALL else [name.strip() for name in text.split(",")]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--benchmarks {text}: {name} is named twice")
        try:
            named_benchmark(name)
        except InputError as error:
            raise InputError(f"--benchmarks {error}") from error
    return names


def load(recipe: str, overrides: Sequence[str], names: Sequence[str], data: str = "") -> Recipe:
    """Read the recipe of a run.

    Args:
        recipe: a named recipe or a YAML file.
        overrides: ``section.field=value``. Those of `finetune` are for the benchmarks, whose settings take the place
            of the recipe's own: they need not suit these.
        names: of the benchmarks; none: the recipe's own.
        data: folder or URI that holds the data sets which the recipe does not place itself; empty: none.

    Raises:
        RecipeError: see :func:`soco_core.recipes.load_recipe`.
    """
    detectors = any(not is_linear(name) for name in names)
    later = [text for text in overrides if detectors and text.strip().startswith(f"{SECTION}.")]
    loaded = load_recipe(recipe, [text for text in overrides if text not in later])
    if not data:
        return loaded
    roots = {named(named_benchmark(name).data).root for name in names}
    # LVIS is of COCO's images.
    roots |= {"coco"} if "lvis" in roots else set()
    places = {str(root): join(data, root) for root in sorted(roots) if not getattr(loaded.datasets, root)}
    return loaded.model_copy(update={"datasets": loaded.datasets.model_copy(update=places)})


def is_linear(name: str) -> bool:
    """Tell whether a benchmark trains no detector; the name "" is the recipe's own, which does."""
    return bool(name) and named_benchmark(name).linear


def of_benchmarks(
    recipe: Recipe, names: Sequence[str], scale: str = "", overrides: Sequence[str] = ()
) -> Mapping[str, Recipe]:
    """Return the recipe of each benchmark; that of the name "" is the recipe's own.

    Raises:
        InputError: an impossible scale.
        RecipeError: an override does not suit a benchmark's settings.
    """
    return {name: of_benchmark(recipe, name, scale, overrides) for name in names or [""]}


def check_data(recipes: Mapping[str, Recipe], coco: str, linear_images: str) -> None:
    """Open every data set that the benchmarks need, each once.

    Args:
        recipes: of each benchmark.
        coco: of all that train a detector; empty: each benchmark's own.
        linear_images: of the linear evaluation.

    Raises:
        InputError: one cannot be opened; where a benchmark chose it, its name is in front.
    """
    opened = set()
    for name, recipe in recipes.items():
        try:
            if is_linear(name):
                open_labelled_images(linear_images, recipe.datasets)
                continue
            needed = (recipe.finetune.has_masks, coco or named_benchmark(name).data)
            if needed not in opened:
                open_finetuning_data(coco, recipe)
                opened.add(needed)
        except InputError as error:
            raise InputError(f"benchmark {name}: {error}" if name and not coco else str(error)) from error

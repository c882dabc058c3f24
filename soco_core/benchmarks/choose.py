"""The recipe of one benchmark: the paper's settings of it in place of the recipe's own section `finetune`."""

from __future__ import annotations

from collections.abc import Sequence

from soco_core.benchmarks.scale import (
    Scale,
    narrow,
    parse_linear_scale,
    parse_scale,
    shorten,
    shorten_linear,
    with_batch,
)
from soco_core.benchmarks.table import named_benchmark
from soco_core.config import FinetuneConfig, Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.recipes import load_recipe, override

SECTION = "finetune"
LINEAR = "linear"
"""The benchmark without a detector, and the recipe's section of it."""


def load_benchmark(
    recipe: str, overrides: Sequence[str], name: str, scale: str = "", batch_size: int | None = None
) -> Recipe:
    """Read a recipe, give it a benchmark's settings, and then apply ``section.field=value`` overrides.

    The overrides have the last word: over the benchmark, the scale and the linear rule.

    Args:
        recipe: a named recipe or a YAML file.
        overrides: of any section.
        name, scale, batch_size: see :func:`choose_benchmark`.

    Raises:
        RecipeError: see :func:`soco_core.recipes.load_recipe`.
        InputError: see :func:`choose_benchmark`.
    """
    # Only the benchmark's section, which takes the place of the recipe's own, must suit them.
    later = [text for text in overrides if text.strip().startswith(f"{SECTION}.")]
    loaded = load_recipe(recipe, [text for text in overrides if text not in later])
    chosen = choose_benchmark(loaded, name, scale, batch_size)
    return override(override(chosen, SECTION, later), "model", overrides)


def choose_benchmark(recipe: Recipe, name: str, scale: str = "", batch_size: int | None = None) -> Recipe:
    """Return the recipe with a benchmark's settings.

    Args:
        recipe: its seed, model, datasets and runtime are kept, its section `finetune` is replaced.
        name: of a benchmark that trains a detector.
        scale: how to shorten it (:func:`soco_core.benchmarks.scale.parse_scale`); empty: the paper's schedule.
        batch_size: images in a step; the schedule follows by the linear rule. None: the paper's.

    Raises:
        InputError: no such benchmark, or one without a detector; an impossible scale or batch size.
    """
    benchmark = named_benchmark(name)
    if benchmark.linear:
        raise InputError(f"{name}: trains no detector; run it by `soco linear`")
    settings = FinetuneConfig(benchmark=name, **benchmark.settings)
    parsed = parse_scale(scale)
    if batch_size is not None:
        before = settings
        settings = with_batch(settings, batch_size)
        say(
            f"{name}: batch {before.batch_size} -> {batch_size}, by the linear rule: learning rate "
            f"{before.learning_rate:g} -> {settings.learning_rate:g}, iterations {before.iterations:,} -> "
            f"{settings.iterations:,}, warm-up {before.warmup_iterations:,} -> {settings.warmup_iterations:,}"
        )
    settings = shorten(settings, parsed)
    if not parsed.whole:
        _say_shortened(name, settings.scale)
    return recipe.model_copy(update={"finetune": settings, "model": narrow(recipe.model, parsed)})


def load_linear(recipe: str, overrides: Sequence[str], scale: str = "") -> Recipe:
    """Read a recipe, shorten its linear evaluation, and then apply ``section.field=value`` overrides once more.

    Raises:
        RecipeError: see :func:`soco_core.recipes.load_recipe`.
        InputError: an impossible scale, or one of the width, which it has none of.
    """
    loaded = load_recipe(recipe, overrides)
    return _with_linear(loaded, parse_linear_scale(scale), overrides)


def of_benchmark(recipe: Recipe, name: str, scale: str = "", overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a pipeline's run for one of its benchmarks.

    Args:
        recipe: of the run, whose section `model` is that of its pretraining.
        name: of the benchmark; empty: the recipe's own, nothing is changed.
        scale: how to shorten it; the width stays, as pretrained weights fit no other.
        overrides: the run's ``section.field=value`` overrides, which have the last word.

    Raises:
        InputError: no such benchmark; an impossible scale, or one that changes the width.
        RecipeError: see :func:`soco_core.recipes.load_recipe`.
    """
    if not name:
        return recipe
    parsed = parse_scale(scale)
    if parsed.width != 1:
        raise InputError(
            f"--scale {scale}: the width is {parsed.width}, and the pretrained weights would not fit; leave it out, "
            f"such as {parsed.text(without='width')}"
        )
    if named_benchmark(name).linear:
        return _with_linear(recipe, parsed, overrides)
    return override(choose_benchmark(recipe, name, scale), SECTION, overrides)


def _with_linear(recipe: Recipe, scale: Scale, overrides: Sequence[str]) -> Recipe:
    settings = shorten_linear(recipe.linear, scale)
    if not scale.whole:
        _say_shortened(LINEAR, settings.scale)
    return override(recipe.model_copy(update={LINEAR: settings}), LINEAR, overrides)


def _say_shortened(name: str, scale: str) -> None:
    say(f"{name}: shortened ({scale}); its numbers are not comparable with the paper's")

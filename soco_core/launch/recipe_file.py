"""The recipe of a stage that other processes, or pods, compute."""

from __future__ import annotations

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe

RECIPE_FILE = ".launched.yaml"
"""In the result's directory, which all of them see; hidden, so no part of the result."""


def hand_over(recipe: Recipe, result: ResultDirectory) -> str:
    """Write the resolved recipe for those who compute a result; return its path or URI."""
    place = storage.join(result.uri, RECIPE_FILE)
    storage.write_text(place, recipe.to_yaml())
    return place

"""Recipes from files: on a disk and in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from soco_core.errors import RecipeError
from soco_core.recipes import load_recipe
from soco_core.storage import write_text


def test_a_recipe_in_a_store(s3: str) -> None:
    write_text(f"{s3}/mine.yaml", "{name: mine, seed: 4}")
    assert load_recipe(f"{s3}/mine.yaml", ["seed=5"]).model_dump(include={"name", "seed"}) == {
        "name": "mine",
        "seed": 5,
    }
    with pytest.raises(RecipeError, match=r"cannot read recipe s3://\S+/none\.yaml") as raised:
        load_recipe(f"{s3}/none.yaml")
    assert "\n" not in str(raised.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read recipe \S+/none\.yaml: No such file"):
        load_recipe(str(tmp_path / "none.yaml"))

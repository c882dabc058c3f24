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


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError, match=f"{tmp_path}: a directory, not a recipe; give a YAML file"):
        load_recipe(str(tmp_path))
    with pytest.raises(RecipeError, match=r"cannot read recipe \S+/folder\.yaml: Is a directory"):
        load_recipe(str(tmp_path / "folder.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("views: [1, 2", "flow sequence (line 1, column 8): views: [1, 2 ^ expected"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice (line 1, column 1)"),
        ("name: \x01", "not allowed (position 6)"),
    ],
)
def test_a_mistake_is_placed_in_the_file_that_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=f"^{file}: not valid YAML: ") as raised:
        load_recipe(str(file))
    assert said in str(raised.value)
    assert "unicode string" not in str(raised.value)

"""docs/recipes.md says what config.py says; SOCO_WRITE_DOCS=1 writes the page instead of comparing it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from soco_core.config import Recipe
from soco_core.recipes import load_recipe, named_recipes, parse_recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->\n"


def shown(value: Any) -> str:
    """Write a value as in YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def rows(model: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        about = " ".join((field.description or "").split())
        yield f"| `{path}{name}` | `{shown(field.default)}` | {about} |"


def fields_as_markdown() -> str:
    """Return every section and field of the recipe with its default, as tables."""
    single = {key: field for key, field in Recipe.model_fields.items() if not isinstance(field.default, BaseModel)}
    lines = ["| Field | Default | Meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | `{shown(field.default)}` | {field.description} |" for key, field in single.items()]
    for key, field in Recipe.model_fields.items():
        if key not in single:
            section = type(field.default)
            about = " ".join((section.__doc__ or "").split())
            lines += ["", f"## `{key}`", "", about, "", "| Field | Default | Meaning |", "|---|---|---|"]
            lines += rows(section, f"{key}.")
    return "\n".join(lines) + "\n"


def test_the_page_of_the_recipes_is_in_step_with_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + fields_as_markdown() + END + after
    if os.environ.get("SOCO_WRITE_DOCS"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted, "run `SOCO_WRITE_DOCS=1 pytest tests/test_docs.py`"


def test_the_page_names_every_recipe() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in named_recipes() if f"`{name}`" not in text] == []


def test_the_example_on_the_page_is_valid() -> None:
    example = PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    recipe = parse_recipe(example)
    assert recipe.name == "birds"
    assert recipe.pretrain.epochs == 200
    assert recipe.pretrain.momentum == load_recipe("soco-fpn-100ep").pretrain.momentum

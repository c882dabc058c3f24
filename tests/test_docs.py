"""The pages: no dead link, and docs/recipes.md says what config.py says (SOCO_WRITE_DOCS=1 writes it)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from k8s.lint import check_documents
from soco_core.config import Recipe
from soco_core.recipes import load_recipe, named_recipes, parse_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "recipes.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("k8s/*.md"),
        *ROOT.glob("components/*/*.md"),
    ]
)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"@[A-Z_]+@", text)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_pod_that_loads_data_is_one_that_a_cluster_takes() -> None:
    example = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    base = [document for file in sorted((ROOT / "k8s" / "base").glob("*.yaml")) for document in read(file)]
    assert check_documents([yaml.safe_load(example)], "docs/data.md", base) == []


def read(file: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]

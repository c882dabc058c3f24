"""Named recipes, and reading any recipe from YAML with ``section.field=value`` overrides.

A named recipe states only what differs from the defaults of :mod:`soco_core.config`. Each mistake is one
line with the path of the field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from soco_core.config import Recipe
from soco_core.errors import InputError, RecipeError
from soco_core.storage import read_text

Model = TypeVar("Model", bound=BaseModel)

UNNAMED_PLACE = re.compile(r' in "<unicode string>", (line \d+, column \d+|position \d+)')
"""PyYAML knows no name of a text that was read already; what it is from is said in front."""


def named_recipes() -> list[str]:
    """Return the names of the recipes that come with soco, sorted."""
    entries = resources.files("soco_core.recipes").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def describe_recipes() -> dict[str, str]:
    """Return what each named recipe is, in one line: the comment that its file begins with."""
    folder = resources.files("soco_core.recipes")
    texts = {name: (folder / f"{name}.yaml").read_text(encoding="utf-8") for name in named_recipes()}
    return {name: text.splitlines()[0].removeprefix("#").strip() for name, text in texts.items()}


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a named recipe or a YAML file (a path or an S3 URI) and apply ``section.field=value`` overrides.

    Raises:
        RecipeError: unknown recipe, unreadable file, unknown key, wrong type, impossible combination.
    """
    path = Path(name_or_path)
    if name_or_path in named_recipes():
        text = (resources.files("soco_core.recipes") / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif path.suffix in {".yaml", ".yml"}:
        try:
            text = read_text(name_or_path)
        except InputError as error:
            raise RecipeError(f"cannot read recipe {str(error).removeprefix('cannot read ')}") from error
    elif path.is_dir():
        raise RecipeError(f"{name_or_path}: a directory, not a recipe; give a YAML file or a name of `soco recipes`")
    else:
        raise RecipeError(
            f"unknown recipe {name_or_path!r}: give a YAML file or a name that `soco recipes` lists"
            + _suggestion(name_or_path, named_recipes())
        )
    return parse_recipe(text, overrides, source=name_or_path)


def parse_recipe(text: str, overrides: Iterable[str] = (), source: str = "recipe") -> Recipe:
    """Check the YAML text of a recipe; see :func:`load_recipe`."""
    values = parse_sections(text, source)
    for override in overrides:
        _apply_override(values, override)
    return validate(Recipe, values, source)


def parse_sections(text: str, source: str, kind: str = "a recipe") -> dict[str, Any]:
    """Read YAML text that is a mapping; an empty one is an empty mapping.

    Raises:
        RecipeError: it is not YAML, has a key twice or an alias, or is something else than a mapping.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-02-30
        problem = UNNAMED_PLACE.sub(r" (\1)", " ".join(str(error).split()))
        raise RecipeError(f"{source}: not valid YAML: {problem}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{source}: {kind} is a mapping of sections, not a {type(values).__name__}")
    return values


def validate(model: type[Model], values: dict[str, Any], source: str) -> Model:
    """Check what was read from YAML against a strict pydantic model.

    Raises:
        RecipeError: one line with `source` and the path of each wrong field.
    """
    try:
        return model.model_validate(_lists_to_tuples(values))
    except ValidationError as error:
        raise RecipeError(f"{source}: {_explain(error, model)}") from error


def override(recipe: Recipe, section: str, overrides: Iterable[str]) -> Recipe:
    """Apply those of the ``section.field=value`` overrides that are of one section, once more after it was replaced.

    Raises:
        RecipeError: as :func:`load_recipe`.
    """
    chosen = [text for text in overrides if text.strip().startswith(f"{section}.")]
    return parse_recipe(recipe.to_yaml(), chosen) if chosen else recipe


class _Loader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; a section given twice must not be lost so.

    Aliases are refused: no recipe needs them, and a few lines of aliases to aliases stand for more than fits a memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor} is not taken in a recipe, write its value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise RecipeError(f"--set {override!r}: write it as section.field=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"--set {override!r}: {text!r} is not a valid YAML value") from error
    here = values
    for key in keys[:-1]:
        inner = here.setdefault(key, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override!r}: {key} is a value, not a section")
        here = inner
    here[keys[-1]] = value


def _lists_to_tuples(value: Any) -> Any:
    """YAML knows lists only, and strict pydantic takes tuples only for tuple fields.

    YAML 1.1 also reads `1e-3` as text (it wants `1.0e-3`), which every reader of a recipe expects to be
    a number.
    """
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Put a pydantic error on one line: each wrong field's path, what is wrong, and a near name."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or "recipe"
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            near = _suggestion(str(item["loc"][-1]), fields) or " (`soco recipe` shows all that there are)"
            lines.append(f"{path}: unknown key{near}")
        elif item["type"] == "model_type":
            lines.append(f"{path}: a section, not a value; write {path}.FIELD=VALUE (got {item['input']!r})")
        elif item["type"] == "missing":
            lines.append(f"{path}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            shown = "" if item["type"] == "value_error" else f" (got {item['input']!r})"
            lines.append(f"{path}: {message}{shown}")
    return "; ".join(lines)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""

"""Other methods' weights that go through the same benchmark: ``--compare NAME=FILE``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from soco_core.config import Recipe
from soco_core.convert.import_stage import weights_file
from soco_core.convert.layouts import LAYOUTS
from soco_core.errors import InputError
from soco_core.plan.inputs import absolute
from soco_core.storage import exists, is_s3

ROW = re.compile(r"[\w .,*^()+-]{1,60}")
"""What stands in labels, file names and tables without harm."""
MOST = 16
"""As many parameters the report has for them."""
OWN_ROWS = ("Scratch", "Supervised", "SoCo")


@dataclass(frozen=True)
class Comparison:
    """One more row of the report."""

    row: str
    """As in the paper's tables."""
    layout: str
    """Of the release; empty: told by its keys."""
    weights: str
    """Its file, or an S3 URI."""


def read_comparisons(given: Sequence[str], recipe: Recipe) -> list[Comparison]:
    """Read what ``--compare`` was given.

    Args:
        given: ``NAME=FILE`` each. NAME is a layout (``moco-v2``), whose row is then the method's, or the row itself.
        recipe: its detector says which of the paper's tables the rows belong to.

    Raises:
        InputError: it has no name or file, the name cannot be a row, two have the same row, or there are too many.
    """
    if len(given) > MOST:
        raise InputError(f"--compare is given {len(given)} times: a report compares with {MOST} methods at most")
    tables = "fpn" if recipe.finetune.has_pyramid else "c4"
    found: list[Comparison] = []
    for text in given:
        name, _, weights = text.partition("=")
        if not name.strip() or not weights:
            raise InputError(f"--compare {text}: write NAME=FILE; NAME is a layout, such as moco-v2, or the row's name")
        layout = next((layout for layout in LAYOUTS if layout.name == name), None)
        row = layout.row(tables) if layout else name.strip()
        if row is None:
            raise InputError(f"--compare {text}: several methods share the layout {name}; give the row's name instead")
        if not ROW.fullmatch(row):
            raise InputError(f"--compare {text}: a row's name has letters, digits, spaces and -_.,*^()+, 60 at most")
        if row in OWN_ROWS or any(row == other.row for other in found):
            raise InputError(f"--compare {text}: there is a row {row!r} already; name this one otherwise")
        found.append(Comparison(row, layout.name if layout else "", weights))
    return found


def check_comparisons(comparisons: Sequence[Comparison], recipe: Recipe) -> list[Comparison]:
    """Look into the files before anything is computed; of those in a store, whether they are there.

    Returns:
        The same with absolute paths.

    Raises:
        InputError: a file is missing, or is not what the recipe's model takes.
    """
    checked = []
    for each in comparisons:
        if not is_s3(each.weights):
            from soco_core.convert.importing import import_weights

            import_weights(weights_file(each.weights), recipe.model, each.layout or None)
        elif not exists(each.weights):
            raise InputError(f"--compare {each.weights}: no such object; give a file or an s3:// URI")
        checked.append(replace(each, weights=absolute(each.weights)))
    return checked


def parameters(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    """Map the pipeline's parameter that holds the weights of each: ``compare_1``, ``compare_2`` ..."""
    return {f"compare_{number}": each for number, each in enumerate(comparisons, 1)}

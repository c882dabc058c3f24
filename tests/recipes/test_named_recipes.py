"""Named recipes: what each changes, beside the paper and the page of the ablations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from soco_core.recipes import load_recipe, named_recipes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ablations.md"
DEFAULT = "soco-fpn-100ep"

# Copied by hand from Tables 4 and 5: boxes and masks.
PAPER_AP = {
    "ablation-whole-image": ("38.1", "34.4"),
    "ablation-selective-search": ("40.6", "36.8"),
    "ablation-fpn": ("40.2", "36.2"),
    "ablation-head": ("41.2", "37.0"),
    "ablation-scale-aware": ("41.6", "37.3"),
    "ablation-box-jitter": ("41.7", "37.5"),
    "soco-fpn-100ep": ("42.3", "37.6"),
    "ablation-v3-96": ("42.1", "37.7"),
    "ablation-v3-128": ("42.1", "37.7"),
    "ablation-v3-160": ("42.0", "37.6"),
    "ablation-v3-192": ("42.2", "37.8"),
    "ablation-batch-512": ("41.7", "37.6"),
    "ablation-batch-1024": ("41.9", "37.6"),
    "ablation-batch-4096": ("41.4", "37.3"),
    "ablation-search-k1": ("41.6", "37.3"),
    "ablation-search-k8": ("41.6", "37.4"),
    "ablation-search-k16": ("41.2", "37.0"),
    "ablation-random-k1": ("41.4", "36.9"),
    "ablation-random-k4": ("NaN", "NaN"),
    "ablation-random-k8": ("NaN", "NaN"),
    "ablation-tau-0.98": ("35.0", "31.7"),
    "ablation-tau-0.993": ("41.8", "37.6"),
}

SEARCH = {
    "proposals.engine": "exact",
    "proposals.scale": 300,
    "proposals.min_size": 100,
    "proposals.exact_texture_range": "byte",
    "proposals.min_side": 32,
    "proposals.keep_duplicates": True,
}
PAIRS = {"views.crop_source": "image", "views.draw": "per-pair", "model.head_calls": "per-view"}
C4 = {
    "views.third_view": "none",
    "model.architecture": "c4",
    "model.roi_size": 14,
    "finetune.benchmark": "coco-c4-1x",
    "finetune.detector": "mask-rcnn-c4",
    "finetune.anchors_train": 12_000,
    "finetune.anchors_test": 6_000,
    "finetune.proposals_train": 2_000,
}
LONG = {"pretrain.epochs": 400}
CUTOUT = {"views.cutout_probability": 0.5}
AUTHORS_FPN = {
    **SEARCH,
    **PAIRS,
    "views.third_view": "crop",
    "views.jitter_views": "first",
    "model.head_levels": "all",
}
AUTHORS_C4 = {**SEARCH, **PAIRS, **C4, **CUTOUT, "views.crop_min_scale": 0.6, "views.jitter_probability": 0.0}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "soco-fpn-400ep": LONG,
    "soco-c4-100ep": C4,
    "soco-c4-400ep": {**C4, **LONG},
    "soco-star-400ep": {"views.fourth_view": True, **LONG},
    "authors-fpn-100ep": {**AUTHORS_FPN, **CUTOUT},
    "authors-fpn-400ep": {**AUTHORS_FPN, **LONG},
    "authors-c4-100ep": AUTHORS_C4,
    "authors-c4-400ep": {**AUTHORS_C4, **LONG},
    "authors-star-400ep": {
        **SEARCH,
        **PAIRS,
        **LONG,
        "views.fourth_view": True,
        "views.jitter_views": "first",
        "model.head_levels": "all",
    },
}


def flat(name: str) -> dict[str, Any]:
    """All fields of a recipe but its name, by path."""
    values = load_recipe(name).model_dump(mode="json")
    del values["name"]
    return {
        f"{section}.{field}": value
        for section, fields in values.items()
        for field, value in (fields.items() if isinstance(fields, dict) else [("", fields)])
    }


def changes(name: str) -> dict[str, Any]:
    default = flat(DEFAULT)
    return {path: value for path, value in flat(name).items() if value != default[path]}


def rows() -> dict[str, tuple[dict[str, Any], tuple[str, str]]]:
    """Recipe -> its fields and AP, as the page's first table states them."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[2].startswith("`"):
            fields = dict(text.split(": ") for text in re.findall(r"`([^`]+)`", cells[3]))
            values = {path: yaml.safe_load(value) for path, value in fields.items()}
            found[cells[2].strip("`")] = values, (cells[4], cells[5])
    return found


def test_the_page_lists_the_22_settings_with_the_papers_numbers() -> None:
    assert len(PAPER_AP) == 22
    assert {name: numbers for name, (_, numbers) in rows().items()} == PAPER_AP
    assert {name for name in named_recipes() if name.startswith("ablation-")} == PAPER_AP.keys() - {DEFAULT}


@pytest.mark.parametrize("name", PAPER_AP)
def test_a_setting_differs_from_the_default_in_its_rows_fields_only(name: str) -> None:
    assert changes(name) == rows()[name][0]


def test_each_row_of_table_4_adds_one_thing() -> None:
    """The ticks of the table, read off the fields."""
    ticks = []
    for name in list(PAPER_AP)[:7]:
        recipe = load_recipe(name)
        views, model = recipe.views, recipe.model
        ticks.append(
            [
                views.objects == "proposals",
                model.use_fpn,
                model.use_head,
                model.scale_aware,
                views.jitter_probability > 0,
                views.third_view != "none",
            ]
        )
    assert ticks == [[column < row for column in range(6)] for row in range(7)]


def test_all_settings_are_distinct() -> None:
    assert len({str(sorted(flat(name).items())) for name in named_recipes()}) == len(named_recipes())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_an_architectures_recipe_changes(name: str) -> None:
    assert changes(name) == ARCHITECTURES[name]


def test_the_authors_recipes_are_on_the_page_field_by_field() -> None:
    variants = set().union(*(changes(name).items() for name in ARCHITECTURES if name.startswith("authors-")))
    text = PAGE.read_text(encoding="utf-8").partition("## The authors' recipes")[2]
    stated = {tuple(item.split(": ")) for item in re.findall(r"`((?:proposals|views|model)\.\w+: [^`]+)`", text)}
    apart = {"views.fourth_view", "model.architecture", "model.roi_size", "pretrain.epochs"}
    # What a C4 pretraining is finetuned as stands in docs/benchmarks.md.
    pretraining = {(path, value) for path, value in variants if not path.startswith("finetune.")}
    expected = {(path, value) for path, value in pretraining if path not in apart and value != "none"}
    assert expected <= {(path, yaml.safe_load(value)) for path, value in stated}


def test_every_recipe_is_named_after_its_file() -> None:
    assert [load_recipe(name).name for name in named_recipes()] == named_recipes()

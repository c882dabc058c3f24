"""What is said before a pretraining whose recipe has sizes that nothing reads, or is a C4 that is not SoCo-C4."""

from __future__ import annotations

import pytest

from soco_core.pretrain.remarks import remarks
from soco_core.recipes import load_recipe, named_recipes


@pytest.mark.parametrize("name", named_recipes())
def test_named_recipes_are_as_they_should_be(name: str) -> None:
    assert remarks(load_recipe(name)) == []


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("soco-fpn-100ep", ["views.fourth_size=96"], "views.fourth_size (96) does nothing without views.fourth_view"),
        ("soco-star-400ep", ["views.fourth_size=96"], None),
        ("ablation-box-jitter", ["views.small_size=96"], "views.small_size (96) does nothing with views.third_view"),
        ("soco-fpn-100ep", ["views.small_size=96"], None),
        ("soco-c4-100ep", ["model.head_convs=1"], "model.head_convs (1) does nothing with model.architecture `c4`"),
        ("soco-fpn-100ep", ["model.head_convs=1"], None),
        ("soco-fpn-100ep", ["model.architecture=c4"], "the recipe soco-c4-100ep has them"),
        ("soco-c4-100ep", ["views.fourth_view=true"], "is SoCo-C4 only with two views"),
        ("soco-c4-100ep", ["model.roi_size=7"], "and model.roi_size 14"),
    ],
)
def test_a_size_that_nothing_reads_is_said(name: str, overrides: list[str], said: str | None) -> None:
    lines = remarks(load_recipe(name, overrides))
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]

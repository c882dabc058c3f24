"""Proposals that were made otherwise than the recipe of a pretraining says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soco_core.artifacts.result import ResultDirectory
from soco_core.pretrain.proposed import as_proposed
from soco_core.pretrain.stage import pretrain
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from soco_core.view_command import draw_image
from tests.pretrain.conftest import tiny
from tests.scenes import write_scenes

SMALL = tiny("soco-fpn-100ep")
IMAGES = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("proposed") / "images"
    write_scenes(folder, IMAGES, (110, 90), (42, 40))
    return str(folder)


def proposed(images: str, *overrides: str) -> ResultDirectory:
    recipe = load_recipe("soco-fpn-100ep", [*SMALL, *overrides])
    return propose(recipe, images=images, output=str(Path(images).parent / "runs"))


def test_other_boxes_than_the_recipes_are_warned_of_and_recorded(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 5c: selective search's boxes must not pass for random ones."""
    boxes = proposed(images)
    recipe = load_recipe("ablation-random-k1", SMALL)
    warning = (
        f"warning: proposals.engine is 'random' in the recipe ablation-random-k1, but {boxes.uri} was made with "
        "'opencv' (and 1 more). Those boxes count; for the recipe's own run `soco propose` with it, and "
        "give that result"
    )
    for _ in range(2):  # whole, it is reused
        result = pretrain(recipe, proposals=boxes.uri, output=str(tmp_path))
        assert capsys.readouterr().err.count(warning) == 1
    stored = load_recipe(str(result.path / "config.yaml"))
    assert stored.proposals == load_recipe("soco-fpn-100ep", SMALL).proposals
    assert stored == recipe.model_copy(update={"proposals": stored.proposals})

    draw_image(recipe, image="00.png", proposals=boxes.uri, output=str(tmp_path / "views.png"))
    assert capsys.readouterr().err.splitlines() == [warning]


def test_the_recipes_own_are_not(images: str) -> None:
    recipe = load_recipe("ablation-random-k1", SMALL)
    boxes = propose(recipe, images=images, output=str(Path(images).parent / "runs"))
    assert as_proposed(recipe, boxes) == (recipe, "")


def test_one_field_is_named_alone(images: str) -> None:
    boxes = proposed(images, "proposals.min_side=10")
    _, said = as_proposed(load_recipe("soco-fpn-100ep", SMALL), boxes)
    assert said.startswith(f"proposals.min_side is 0 in the recipe soco-fpn-100ep, but {boxes.uri} was made with 10. ")


def test_imported_boxes_are_meant_unless_the_recipe_wants_others(images: str) -> None:
    file = Path(images).parent / "boxes.json"
    file.write_text(json.dumps({f"{number:02d}": [[10, 10, 40, 40]] for number in range(IMAGES)}))
    boxes = proposed(images, "proposals.engine=import", f"proposals.boxes_file={file}")
    used, said = as_proposed(load_recipe("soco-fpn-100ep", SMALL), boxes)
    assert (used.proposals.engine, said) == ("import", "")
    assert as_proposed(load_recipe("ablation-random-k1", SMALL), boxes)[1].startswith(
        "proposals.engine is 'random' in the recipe ablation-random-k1"
    )


def test_a_recipe_that_cannot_be_read_says_nothing(images: str) -> None:
    boxes = proposed(images, "proposals.min_side=11")
    (boxes.path / "config.yaml").write_text("proposals: {of_another_version: 1}")
    recipe = load_recipe("soco-fpn-100ep", SMALL)
    assert as_proposed(recipe, boxes) == (recipe, "")

"""What the report says of the proposals, and what of them counts as a difference from the paper."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from soco_core.artifacts.result import open_result
from soco_core.config import ImagesConfig, ProposalsConfig, Recipe
from soco_core.detection.engines import resolve_engine
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe
from soco_core.report.proposals import proposal_facts
from soco_core.report.runs import read_runs
from soco_core.report.stage import report

if TYPE_CHECKING:
    from conftest import Results

Numbers = dict[str, tuple[float | None, ...]]


def section_of(results: Results, recipe: Recipe | None = None) -> dict[str, Any]:
    return json.loads((results.proposals(recipe).path / "manifest.json").read_text())


def made_with(**fields: Any) -> Recipe:
    return Recipe(proposals=ProposalsConfig(**fields))


def differences(results: Results, numbers: Numbers, recipe: Recipe) -> list[tuple[str, str, str]]:
    proposals = results.proposals(recipe)
    pretrained = open_result(results.pretrain(proposals))
    runs = read_runs([open_result(results.finetune("SoCo", numbers["SoCo"]))], pretrained, proposals)
    return [(item.what, item.ours, item.paper) for item in runs[0].differences]


def test_the_section_says_how_of_what_and_how_many(results: Results, numbers: Numbers) -> None:
    proposals = results.proposals()
    result = report(
        Recipe(),
        benchmarks=[results.finetune("SoCo", numbers["SoCo"])],
        pretrained=results.pretrain(proposals),
        proposals=proposals.uri,
        output=str(results.folder),
    )
    assert json.loads((result.path / "results.json").read_text())["proposals"] == {
        "engine": "opencv",
        "versions": "cv2 4.14.0, numpy 2.4.6",
        "search parameters": "opencv_mode single, scale 500, sigma 0.9, min_size 10, opencv_colours bgr, "
        "opencv_strategies 1, max_long_side 1000",
        "filter": "max_aspect_ratio 3.0, min_relative_size 0.3, max_relative_size 0.8, min_side 0, "
        "fallback_min_side 32",
        "image set": "s3://data/coco",
        "layout": "coco: train2017, unlabeled2017",
        "subset": "all images",
        "images": "1,281,167",
        "usable images": "1,281,165",
        "unreadable images": "2 (under 0.1 %)",
        "searched on a reduced copy": "12,812 (1.0 %)",
        "boxes": "20,000,000",
        "boxes per image": "15.6 on average, 14 median, 1 to 99",
        "kept by the strict rule": "1,281,000 (over 99.9 %)",
        "kept by the aspect ratio rule": "100 (under 0.1 %)",
        "kept by the min side rule": "60 (under 0.1 %)",
        "kept by the whole image rule": "5 (under 0.1 %)",
    }
    for page in ("report.html", "report.md"):
        text = (result.path / page).read_text()
        assert "12,812 (1.0 %)" in text
        assert "as the paper's Figure 2" in text.replace("&#39;", "'")
        assert "as the paper's Figure 3" in text.replace("&#39;", "'")
    assert {"proposals.png", "proposals_histogram.png"} <= {path.name for path in (result.path / "figures").iterdir()}


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        (made_with(opencv_mode="quality"), "opencv_mode quality, max_long_side 1000"),
        (
            made_with(opencv_colours=("hsv", "lab"), opencv_strategies=2),
            "opencv_mode single, scale 500, sigma 0.9, min_size 10, opencv_colours hsv+lab, opencv_strategies 2, "
            "max_long_side 1000",
        ),
        (
            made_with(engine="exact"),
            "scale 500, sigma 0.9, min_size 10, exact_texture_range unit, max_long_side 1000",
        ),
        (made_with(engine="random", random_boxes=8), "random_boxes 8"),
        (made_with(engine="import", boxes_file="a.json"), "none"),
    ],
)
def test_only_parameters_that_the_engine_reads_are_shown(results: Results, recipe: Recipe, parameters: str) -> None:
    assert dict(proposal_facts(section_of(results, recipe)))["search parameters"] == parameters


def test_what_an_engine_rests_on_is_shown(results: Results) -> None:
    manifest = section_of(results)
    manifest["search"] = {"engine": "import", "versions": {}, "boxes_file": "a.json", "boxes_file_sha256": "0f"}
    facts = proposal_facts(manifest)
    assert facts[:3] == [("engine", "import"), ("boxes file", "a.json"), ("boxes file sha256", "0f")]
    manifest["search"] = {"engine": "random", "versions": {"numpy": "2.4.6"}, "seed": 3}
    assert proposal_facts(manifest)[:3] == [("engine", "random"), ("versions", "numpy 2.4.6"), ("seed", "3")]


def test_shares_of_none_and_of_all_are_exact(results: Results) -> None:
    manifest = section_of(results)
    manifest["images"] = {"good": 8, "bad": 0}
    manifest["kept_by"] = {"strict": 8, "aspect_ratio": 0}
    manifest["image_set"] |= {"layout": "folder", "splits": [], "subset": "10%", "images": 8}
    facts = dict(proposal_facts(manifest))
    assert facts["unreadable images"] == "0 (0.0 %)"
    assert facts["kept by the strict rule"] == "8 (100.0 %)"
    assert (facts["layout"], facts["subset"]) == ("folder", "10%")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(), []),
        (made_with(engine="exact", exact_texture_range="byte"), []),
        (
            made_with(engine="random", random_boxes=8),
            [("proposals.engine", "random", "exact or opencv"), ("proposals.random_boxes", "8", "4")],
        ),
        (made_with(engine="import", boxes_file="a.json"), [("proposals.engine", "import", "exact or opencv")]),
        (made_with(min_side=32), [("proposals.min_side", "32", "0")]),
    ],
)
def test_the_papers_own_search_is_no_difference_from_the_paper(
    results: Results, numbers: Numbers, recipe: Recipe, expected: list[tuple[str, str, str]]
) -> None:
    assert differences(results, numbers, recipe) == expected


def test_the_recipe_names_the_images_that_were_taken_and_the_file_that_was_imported(
    results: Results, numbers: Numbers
) -> None:
    given = Recipe(
        images=ImagesConfig(layout="coco", splits=("train2017",), subset="10%", max_pixels=7),
        proposals=ProposalsConfig(engine="import", boxes_file="s3://data/boxes.json"),
    )
    # As it determines the boxes: by what is in the file.
    stated = given.model_copy(update={"proposals": given.proposals.model_copy(update={"boxes_file": "0f" * 32})})
    proposals = results.proposals(stated, given=given)
    result = report(
        Recipe(name="made"),
        benchmarks=[results.finetune("SoCo", numbers["SoCo"])],
        pretrained=results.pretrain(proposals),
        proposals=proposals.uri,
        output=str(results.folder / "again"),
    )
    recipe = parse_recipe((result.path / "recipe.yaml").read_text())
    assert recipe == resolve_engine(given.model_copy(update={"name": "made"}))


def test_proposals_of_another_contract_are_refused(results: Results, numbers: Numbers) -> None:
    old = results.proposals(contract=1)
    with pytest.raises(InputError, match="proposals of contract 1, but this version of soco reads contract 2"):
        report(
            Recipe(),
            benchmarks=[results.finetune("SoCo", numbers["SoCo"])],
            pretrained=results.pretrain(old),
            proposals=old.uri,
            output=str(results.folder),
        )

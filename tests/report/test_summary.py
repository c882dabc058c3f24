"""What a step of a pipeline shows of one benchmark, and the report of a pretraining alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from soco_core.artifacts.result import locate, writing
from soco_core.benchmarks.choose import choose_benchmark
from soco_core.cli import app
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.recipes import load_recipe, parse_recipe
from soco_core.report.stage import report, summarise

if TYPE_CHECKING:
    from conftest import Results

Numbers = dict[str, tuple[float | None, ...]]


def test_a_table_beside_the_papers_rows_and_nothing_stored(results: Results, numbers: Numbers) -> None:
    rows = [results.finetune(method, values) for method, values in numbers.items()]
    before = sorted(results.folder.rglob("*"))
    summary = summarise(rows)
    assert sorted(results.folder.rglob("*")) == before
    assert summary.metrics["SoCo APbb"] == 42.4
    assert len(summary.metrics) == 18
    assert re.search(
        r"^\| SoCo.* \| 42\.4 \| 62\.6 \| 46\.6 \| 37\.7 \| 59\.2 \| 40\.6 \|$", summary.markdown, re.MULTILINE
    )
    assert "| paper: SoCo | 400 | 43.0 |" in summary.markdown
    assert "| *SoCo − Scratch* |" in summary.markdown
    assert "How to reproduce" not in summary.markdown + summary.html
    assert re.search(r"<td[^>]*>42\.4</td>", summary.html)
    assert "<img" not in summary.html


def test_numbers_that_were_not_measured_are_no_metrics(results: Results) -> None:
    recipe = choose_benchmark(Recipe(), "voc-c4")
    summary = summarise([results.finetune("SoCo", (50.0, 80.0, None), recipe)])
    assert summary.metrics == {"SoCo APbb": 50.0, "SoCo APbb50": 80.0}
    assert "## voc-c4" in summary.markdown


def test_rows_of_another_pretraining_are_refused(results: Results, numbers: Numbers) -> None:
    one, other = results.proposals(), results.proposals(Recipe.model_validate({"proposals": {"scale": 300}}))
    rows = [results.finetune("SoCo", numbers["SoCo"], init=results.convert(results.pretrain(one)))]
    with pytest.raises(InputError):
        summarise(rows, pretrained=results.pretrain(one), proposals=other.uri)


def test_a_pretraining_alone(results: Results) -> None:
    proposals = results.proposals()
    pretrained = results.pretrain(proposals)
    converted = exported(results, pretrained)
    result = report(
        Recipe(name="alone"),
        benchmarks=[],
        pretrained=pretrained,
        proposals=proposals.uri,
        converted=converted,
        output=str(results.folder),
    )
    text = (result.path / "report.md").read_text()
    assert "| torchvision.pth | 176 keys; 18 left out, each for a reason |" in text
    assert "| final loss | −5.900 |" in text
    assert "pipelines/pretrain_only.py --local --recipe recipe.yaml" in text
    html = (result.path / "report.html").read_text()
    assert "torchvision.pth" in html
    assert "finetuned and evaluated" not in html
    found = json.loads((result.path / "results.json").read_text())
    assert found["benchmarks"] == []
    assert found["exports"] == {"torchvision.pth": "176 keys; 18 left out, each for a reason"}
    # Without its weights it is another report.
    other = report(Recipe(name="alone"), benchmarks=[], pretrained=pretrained, output=str(results.folder))
    assert other.uri != result.uri
    assert "## Weights" not in (other.path / "report.md").read_text()


def test_proposals_alone(results: Results) -> None:
    drawn = Recipe.model_validate({"seed": 3, "proposals": {"engine": "random"}})
    for recipe in (drawn, drawn.model_copy(update={"proposals": Recipe().proposals})):
        proposals = results.proposals(recipe)
        page = report(Recipe(), benchmarks=[], proposals=proposals.uri, output=str(results.folder)).path
        text = (page / "report.md").read_text()
        assert "## Proposals" in text
        assert "## Pretraining" not in text
        assert "soco propose --recipe recipe.yaml --images DIR" in text
        assert parse_recipe((page / "recipe.yaml").read_text()) == recipe.model_copy(update={"name": "unnamed"})


def test_weights_are_listed_beside_their_own_pretraining_only(results: Results) -> None:
    proposals = results.proposals()
    mine, other = results.pretrain(proposals), results.pretrain(proposals, Recipe(seed=1))
    with pytest.raises(InputError, match=f"made of {Path(mine).name}, not of {other}"):
        report(Recipe(), benchmarks=[], pretrained=other, converted=exported(results, mine), output=str(results.folder))
    assert not (results.folder / "report").exists()


def exported(results: Results, pretrained: str) -> str:
    recipe = Recipe()
    inputs = {"pretrained": Path(pretrained).name}
    result = locate(str(results.folder), "convert", 2, recipe, ("model",), inputs)
    with writing(result, recipe):
        (result.path / "torchvision.pth").write_bytes(b"")
        result.finish({"torchvision": {"loaded": 176, "left_out": 18}, "keys": 194})
    return result.uri


def test_a_report_on_nothing_is_refused(results: Results) -> None:
    with pytest.raises(InputError, match=r"nothing to report on; give --benchmark .*, --pretrained or --proposals"):
        report(Recipe(), benchmarks=[], output=str(results.folder))
    with pytest.raises(InputError, match="nothing to report on but --converted; give --benchmark"):
        report(Recipe(), benchmarks=[], converted="weights", output=str(results.folder))


def test_the_command_makes_the_page_of_the_pipelines(results: Results, numbers: Numbers) -> None:
    proposals = results.proposals()
    pretrained = results.pretrain(proposals)
    converted = exported(results, pretrained)
    rows = [results.finetune(method, values) for method, values in numbers.items()]
    made = {"pretrained": pretrained, "proposals": proposals.uri, "converted": converted}
    for benchmarks in ([], rows):
        options = [f"--{name}={uri}" for name, uri in made.items()] + [f"--benchmark={uri}" for uri in benchmarks]
        arguments = ["report", "--recipe", "demo", *options, "--output", str(results.folder)]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        (page,) = done.stdout.splitlines()
        piped = report(load_recipe("demo"), benchmarks=benchmarks, **made, output=str(results.folder / "pipeline"))
        assert Path(page).name == piped.fingerprint
        text = (Path(page) / "report.md").read_text()
        assert text == (piped.path / "report.md").read_text()
        assert "## Weights" in text

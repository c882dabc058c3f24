"""What a step of a pipeline shows of one benchmark, and the report of a pretraining alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from soco_core.artifacts.result import locate, writing
from soco_core.benchmarks.choose import choose_benchmark
from soco_core.config import Recipe
from soco_core.errors import InputError
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
    converted = exported(results)
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


def exported(results: Results) -> str:
    recipe = Recipe()
    result = locate(str(results.folder), "convert", 2, recipe, ("model",), {"pretrained": "p"})
    with writing(result, recipe):
        (result.path / "torchvision.pth").write_bytes(b"")
        result.finish({"torchvision": {"loaded": 176, "left_out": 18}, "keys": 194})
    return result.uri


def test_a_report_on_nothing_is_refused(results: Results) -> None:
    with pytest.raises(InputError, match="no benchmark result to report on"):
        report(Recipe(), benchmarks=[], output=str(results.folder))

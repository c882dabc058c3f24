from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from soco_core.benchmarks.choose import choose_benchmark
from soco_core.config import ModelConfig, Recipe
from soco_core.detection.engines import resolve_engine
from soco_core.errors import InputError
from soco_core.linear_config import LinearConfig
from soco_core.recipes import parse_recipe
from soco_core.report.stage import report

if TYPE_CHECKING:
    from conftest import Results

Numbers = dict[str, tuple[float | None, ...]]


class Page(HTMLParser):
    """Collects what a browser would see of the report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        assert tag not in {"script", "link", "iframe", "object"}
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag in {"td", "th", "tr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data.strip()


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def full(results: Results, numbers: Numbers) -> Path:
    proposals = results.proposals()
    result = report(
        Recipe(name="soco-fpn-100ep"),
        benchmarks=[results.finetune(method, values) for method, values in numbers.items()],
        pretrained=results.pretrain(proposals),
        proposals=proposals.uri,
        output=str(results.folder),
    )
    return result.path


def test_numbers_stand_under_their_columns(full: Path, numbers: Numbers) -> None:
    html = Page((full / "report.html").read_text()).rows
    heads = ["Method", "Epochs", "APbb", "APbb50", "APbb75", "APmk", "APmk50", "APmk75"]
    assert heads in html
    for method, values in numbers.items():
        assert [method, "", *map(str, values)] in html
    assert ["SoCo", "400", "43.0", "63.3", "47.1", "38.2", "60.2", "41.0"] in html
    assert ["PixPro", "400", "41.4", "61.6", "45.4", "–", "–", "–"] in html
    assert ["SoCo − Scratch", "", "+11.2", "+13.0", "+13.3", "+9.3", "+12.5", "+10.1"] in html

    markdown = markdown_rows((full / "report.md").read_text())
    assert ["", "epochs", *heads[2:]] in markdown
    assert ["SoCo", "", *map(str, numbers["SoCo"])] in markdown
    assert ["paper: SoCo", "400", "43.0", "63.3", "47.1", "38.2", "60.2", "41.0"] in markdown


def test_the_html_needs_nothing_beside_it(full: Path) -> None:
    text = (full / "report.html").read_text()
    links = Page(text).links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert sum(link.startswith("data:") for link in links) == len(list((full / "figures").glob("*.png"))) == 9
    assert not re.search(r"url\(|@import|https?:", text)


def test_links_of_the_markdown_lead_to_files(full: Path) -> None:
    links = re.findall(r"\]\((figures/[^)]+)\)", (full / "report.md").read_text())
    assert len(links) == 9
    assert all((full / link).is_file() for link in links)


def test_names_of_files_cannot_break_the_page(full: Path) -> None:
    html = (full / "report.html").read_text()
    assert "a|b&lt;i&gt;.jpg" in html
    assert "<i>" not in html
    assert "| a\\|b&lt;i>.jpg | truncated |" in (full / "report.md").read_text()


def test_results_json_and_summary_hold_the_numbers(full: Path, numbers: Numbers) -> None:
    values = json.loads((full / "results.json").read_text())
    [benchmark] = values["benchmarks"]
    assert benchmark["comparable_with_paper"] is True
    assert [run["metrics"]["APbb"] for run in benchmark["runs"]] == [31.2, 38.8, 42.4]
    assert len(benchmark["paper"]) == 15
    summary = json.loads((full / "done.json").read_text())["summary"]
    assert summary["coco-fpn-1x"]["SoCo"]["APmk75"] == 40.6


def test_the_recipe_of_the_report_is_that_of_the_runs(full: Path) -> None:
    text = (full / "recipe.yaml").read_text()
    recipe = parse_recipe(text)
    assert recipe == resolve_engine(Recipe(name="soco-fpn-100ep"))
    assert {"proposals", "views", "model", "pretrain", "finetune"} <= yaml.safe_load(text).keys()


def test_a_linear_evaluation_is_reproduced_by_its_own_command(results: Results) -> None:
    ran = Recipe(model=ModelConfig(backbone="resnet18"), linear=LinearConfig(epochs=2))
    page = report(Recipe(), benchmarks=[results.linear(ran, 800)], output=str(results.folder)).path
    recipe = parse_recipe((page / "recipe.yaml").read_text())
    assert (recipe.linear, recipe.model.backbone) == (ran.linear, "resnet18")
    for file in ("report.md", "report.html"):
        text = (page / file).read_text()
        assert "soco linear --recipe recipe.yaml --images DIR --init WEIGHTS" in text
        assert "full_benchmark" not in text


def test_boxes_alone_are_said_to_be(results: Results, numbers: Numbers) -> None:
    recipe = choose_benchmark(Recipe(), "voc-c4")
    uri = results.finetune("Scratch", numbers["Scratch"][:3], recipe, train_images=9, val_images=9)
    text = (report(Recipe(), benchmarks=[uri], output=str(results.folder)).path / "report.md").read_text()
    assert "of boxes (bb): over IoU" in text
    assert "(mk)" not in text


def test_a_short_demo_is_marked_and_stands_alone(results: Results, demo: Recipe, numbers: Numbers) -> None:
    uris = [results.finetune(m, numbers[m], demo, train_images=240, val_images=60) for m in ("Scratch", "SoCo")]
    result = report(demo, benchmarks=uris, output=str(results.folder))
    html = (result.path / "report.html").read_text()
    rows = Page(html).rows
    assert ["Scratchshortened", *map(str, numbers["Scratch"])] in rows
    assert not any("Supervised" in cell for row in rows for cell in row)
    assert "The paper, Table 1" not in html
    assert "not a benchmark of the paper" in html
    markdown = (result.path / "report.md").read_text()
    assert "| Scratch (shortened) |" in markdown
    assert "paper: SoCo" not in markdown
    assert "## Pretraining" not in markdown


def test_a_shortened_run_of_the_papers_benchmark_says_that_it_cannot_be_compared(
    results: Results, numbers: Numbers
) -> None:
    uri = results.finetune("Scratch", numbers["Scratch"], train_images=131, val_images=33)
    result = report(Recipe(), benchmarks=[uri], output=str(results.folder))
    html = (result.path / "report.html").read_text()
    assert "cannot be compared with the paper&#39;s numbers" in html
    assert ["training images", "131", "118,287"] in Page(html).rows
    assert json.loads((result.path / "results.json").read_text())["benchmarks"][0]["comparable_with_paper"] is False


def test_a_missing_metric_is_a_dash(results: Results) -> None:
    uri = results.finetune("Scratch", (31.2, 49.6, 33.3, None, None, None))
    result = report(Recipe(), benchmarks=[uri], output=str(results.folder))
    assert ["Scratch", "", "31.2", "49.6", "33.3", "–", "–", "–"] in Page(
        (result.path / "report.html").read_text()
    ).rows


def test_the_same_inputs_give_the_same_bytes(results: Results, numbers: Numbers, tmp_path: Path) -> None:
    uris = [results.finetune(method, values) for method, values in numbers.items()]
    first = report(Recipe(), benchmarks=uris, output=str(tmp_path / "first"))
    second = report(Recipe(), benchmarks=uris[::-1], output=str(tmp_path / "second"))
    assert first.fingerprint == second.fingerprint
    assert first.done == second.done


def test_inputs_that_do_not_belong_together_are_refused(results: Results, demo: Recipe, numbers: Numbers) -> None:
    small = demo.model_copy(update={"proposals": demo.proposals.model_copy(update={"scale": 100})})
    pretrained = results.pretrain(results.proposals())
    uri = results.finetune("SoCo", numbers["SoCo"])
    with pytest.raises(InputError, match="not the proposals of"):
        report(
            Recipe(),
            benchmarks=[uri],
            pretrained=pretrained,
            proposals=results.proposals(small).uri,
            output=str(results.folder),
        )
    with pytest.raises(InputError, match="a result of `pretrain`, but one of finetune or linear is needed"):
        report(Recipe(), benchmarks=[pretrained], output=str(results.folder))
    twin = results.finetune("SoCo", numbers["SoCo"], coco="another data set")
    with pytest.raises(InputError, match="give one of them only"):
        report(Recipe(), benchmarks=[uri, twin], output=str(results.folder))
    assert not (results.folder / "report").exists()


def test_a_pretraining_is_not_shown_beside_rows_of_another(results: Results, numbers: Numbers) -> None:
    proposals = results.proposals()
    mine = results.pretrain(proposals)
    other = results.pretrain(proposals, Recipe(seed=1))
    uri = results.finetune("SoCo", numbers["SoCo"], init=results.convert(mine))
    report(Recipe(), benchmarks=[uri], pretrained=mine, output=str(results.folder))
    with pytest.raises(InputError, match=f"its weights come from pretraining {Path(mine).name}, not from {other}"):
        report(Recipe(), benchmarks=[uri], pretrained=other, output=str(results.folder))

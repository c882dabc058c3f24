"""A component hands on a result that is whole already and lies on S3 alone: another pod computed it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.console import STAGE_LABEL
from soco_core.recipes import load_recipe

pytest.importorskip("kfp")

RECIPE = load_recipe("demo")
FILES = {
    "metrics.json": json.dumps(
        {
            **{
                "benchmark": "b",
                "method": "SoCo",
                "metrics": {"APbb": 12.5, "APmk": None},
                "initialisation": "scratch",
            },
            **{"train_images": 1, "val_images": 1, "iterations": 1, "batch_size": 1, "seed": 0},
        }
    ),
    "report.html": "<table>",
    "report.md": "# Report\n![figure](a.png)\nend\n",
}


@pytest.fixture
def elsewhere(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultDirectory:
    """A whole result of which this machine has no file."""

    def place() -> ResultDirectory:
        return locate(s3, "finetune", 1, RECIPE, ("seed",), {})

    def compute(result: ResultDirectory, tracker: Any) -> dict[str, Any]:
        for name, text in FILES.items():
            (result.path / name).write_text(text)
        return {}

    complete(place(), RECIPE, None, compute)
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "another machine"))
    monkeypatch.setenv(STAGE_LABEL, "")  # a stage's process sets it for good, and here it is not the stage's
    monkeypatch.setattr("soco_core.engine.component.end_with_pipeline", lambda: None)
    monkeypatch.setattr("soco_core.engine.component.share_cores", lambda: None)
    monkeypatch.setattr("soco_core.engine.component.stop_on_sigterm", lambda: None)
    found = place()
    assert found.done is not None
    assert not list(found.path.glob("*"))
    return found


@pytest.mark.parametrize("name", ["finetune", "linear"])
def test_metrics(name: str, elsewhere: ResultDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.finetune.component import finetune
    from components.linear.component import linear

    where = {"finetune": "soco_core.detection.launched.finetune", "linear": "soco_core.linear.launched.linear"}
    monkeypatch.setattr(where[name], lambda *_, **__: elsewhere)
    logged: dict[str, float] = {}
    metrics = SimpleNamespace(log_metric=logged.__setitem__)
    data = {"finetune": {"coco": "coco"}, "linear": {"images": "images", "benchmark": ""}}[name]
    component = {"finetune": finetune, "linear": linear}[name].python_func
    given = {"recipe": "demo", "method": "SoCo", "init": "scratch", "output": "out", "metrics": metrics}
    assert component(**given, **data) == elsewhere.uri
    assert logged == {"APbb": 12.5}


def test_report(elsewhere: ResultDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.report.component import report

    monkeypatch.setattr("soco_core.report.stage.report", lambda *_, **__: elsewhere)
    monkeypatch.setattr("soco_core.plan.stage.end_run", lambda *_, **__: None)
    html, markdown = (SimpleNamespace(path=str(tmp_path / name)) for name in ("html", "markdown"))
    given = {"recipe": "demo", "plan": "p", "proposals": "q", "pretrained": "r", "output": "out"}
    assert report.python_func(**given, html=html, markdown=markdown) == elsewhere.uri
    assert Path(html.path).read_text() == FILES["report.html"]
    assert Path(markdown.path).read_text() == "# Report\nend\n"

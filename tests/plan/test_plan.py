"""The first stage: its checks, its identity, and the parent run."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.plan.stage import PARENT_RUN, Plan, end_run, plan

RECIPE = Recipe(name="tiny")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    for name in ("images/a.jpg", "coco/annotations/instances_train.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    return {"images": str(tmp_path / "images"), "coco": str(tmp_path / "coco")}


def run(inputs: dict[str, str], tmp_path: Path, recipe: Recipe = RECIPE) -> Plan:
    return plan(recipe, **inputs, output=str(tmp_path / "out"), tracking_uri=f"sqlite:///{tmp_path}/m.db")


def test_counts_images(inputs: dict[str, str], tmp_path: Path) -> None:
    assert run(inputs, tmp_path).result.summary["pretraining_images"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "missing"}, "image folder missing does not exist"),
        ({"coco": "missing"}, "COCO folder missing does not exist"),
        ({"supervised": "missing.pth"}, "weights file missing.pth does not exist"),
    ],
)
def test_refuses_missing_inputs(inputs: dict[str, str], tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run({**inputs, **change}, tmp_path)
    assert not (tmp_path / "out").exists()


def test_same_plan_goes_on_under_the_same_parent_run(inputs: dict[str, str], tmp_path: Path) -> None:
    first = run(inputs, tmp_path)
    faster = RECIPE.model_copy(update={"runtime": RECIPE.runtime.model_copy(update={"workers": 1})})
    again = run(inputs, tmp_path, faster)
    other = run(inputs, tmp_path, RECIPE.model_copy(update={"seed": 1}))
    assert first.tracking is not None
    assert again.tracking == first.tracking
    assert again.result.uri == first.result.uri
    assert other.tracking is not None
    assert other.tracking.parent != first.tracking.parent
    assert Recipe.model_validate(first.recipe) == RECIPE
    assert (first.result.path / "config.yaml").read_text() == RECIPE.to_yaml()


def status_of(parent: str, tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "m.db") as database:
        return str(database.execute("SELECT status FROM runs WHERE run_uuid = ?", [parent]).fetchone()[0])


def test_parent_run_follows_the_pipeline(inputs: dict[str, str], tmp_path: Path) -> None:
    settled = run(inputs, tmp_path)
    assert settled.tracking is not None
    parent = settled.tracking.parent
    assert status_of(parent, tmp_path) == "RUNNING"
    end_run(settled.result.uri, succeeded=False)
    assert status_of(parent, tmp_path) == "FAILED"
    run(inputs, tmp_path)
    assert status_of(parent, tmp_path) == "RUNNING"
    end_run(settled.result.uri, succeeded=True)
    assert status_of(parent, tmp_path) == "FINISHED"
    run(inputs, tmp_path)
    assert status_of(parent, tmp_path) == "FINISHED"


def test_unreachable_mlflow_is_tried_again(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise ConnectionError("connection\nrefused")

    with monkeypatch.context() as broken:
        broken.setattr("soco_core.plan.stage.start_pipeline_run", refused)
        settled = run(inputs, tmp_path)
    assert settled.tracking is None
    assert settled.result.done is not None
    assert "warning: the parent run in MLflow cannot be written (connection refused)" in capsys.readouterr().err
    assert not (settled.result.path / PARENT_RUN).exists()
    end_run(settled.result.uri, succeeded=True)
    assert run(inputs, tmp_path).tracking is not None


def test_an_input_that_went_since_is_noticed(inputs: dict[str, str], tmp_path: Path) -> None:
    run(inputs, tmp_path)
    Path(inputs["images"], "a.jpg").unlink()
    with pytest.raises(InputError, match="holds no image"):
        run(inputs, tmp_path)


def test_a_known_plan_costs_no_import_of_mlflow_or_torch(inputs: dict[str, str], tmp_path: Path) -> None:
    settled = run(inputs, tmp_path)
    script = (
        "import json, sys\n"
        "from soco_core.config import Recipe\n"
        "from soco_core.plan.stage import end_run, plan\n"
        "inputs, output, uri = json.loads(sys.argv[1])\n"
        "print(plan(Recipe(name='tiny'), **inputs, output=output, tracking_uri=uri).tracking.parent)\n"
        "print(sorted({'torch', 'mlflow', 'kfp', 'cv2'} & set(sys.modules)))\n"
    )
    arguments = json.dumps([inputs, str(tmp_path / "out"), f"sqlite:///{tmp_path}/m.db"])
    done = subprocess.run([sys.executable, "-c", script, arguments], capture_output=True, text=True, check=True)
    assert settled.tracking is not None
    assert done.stdout.split("\n")[:2] == [settled.tracking.parent, "[]"]

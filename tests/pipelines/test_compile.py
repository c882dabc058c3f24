"""The compiled DAG: its tasks, what they wait for, what they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")
from pipelines.command import main
from pipelines.full_benchmark import build_pipeline
from soco_core.engine.component import read_recipe
from soco_core.recipes import load_recipe


def compiled(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "pipeline.yaml"
    assert main(build_pipeline, "full_benchmark", ["--yaml", str(path), *arguments]) == 0
    return dict(next(yaml.safe_load_all(path.read_text())))


def tasks(dag: dict[str, Any]) -> dict[str, Any]:
    return dict(dag["root"]["dag"]["tasks"])


def all_dags(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]


def test_demo_tasks_and_dependencies(tmp_path: Path) -> None:
    dependencies = {name: set(task.get("dependentTasks", ())) for name, task in tasks(compiled(tmp_path)).items()}
    assert dependencies == {
        "demo-data": set(),
        "plan": {"demo-data"},
        "propose-all": {"demo-data", "plan"},
        "pretrain": {"demo-data", "plan", "propose-all"},
        "convert": {"plan", "pretrain"},
        "finetune": {"demo-data", "plan"},
        "finetune-2": {"convert", "demo-data", "plan"},
        "report": {"finetune", "finetune-2", "plan", "pretrain", "propose-all"},
    }


def test_own_data_and_supervised_weights(tmp_path: Path) -> None:
    spec = compiled(tmp_path, "--images", "/i", "--coco", "/c", "--supervised", "/s.pth")
    found = tasks(spec)
    assert "demo-data" not in found
    assert {"finetune", "finetune-2", "finetune-3"} <= set(found)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    defaults = {name: parameter.get("defaultValue") for name, parameter in parameters.items()}
    assert defaults == {
        "recipe": "demo",
        "images": "/i",
        "coco": "/c",
        "supervised": "/s.pth",
        "output": None,
        "tracking_uri": "",
    }
    given = found["plan"]["inputs"]["parameters"]
    assert {name: value["componentInputParameter"] for name, value in given.items()} == {
        name: name for name in parameters
    }
    methods = {
        task["inputs"]["parameters"]["method"]["runtimeValue"]["constant"]: task["inputs"]["parameters"]["init"]
        for name, task in found.items()
        if name.startswith("finetune")
    }
    assert methods["Scratch"] == {"runtimeValue": {"constant": "scratch"}}
    assert methods["Supervised"] == {"componentInputParameter": "supervised"}
    assert methods["SoCo"]["taskOutputParameter"]["producerTask"] == "convert"


def test_shards_and_image(tmp_path: Path) -> None:
    spec = compiled(tmp_path, "--shards", "3", "--image", "registry/soco:1")
    (loop,) = (
        task["parameterIterator"]["items"]["raw"]
        for dag in all_dags(spec)
        for task in dag["tasks"].values()
        if "parameterIterator" in task
    )
    assert yaml.safe_load(loop) == ["0/3", "1/3", "2/3"]
    executors = spec["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {"registry/soco:1"}
    assert "pip install" not in yaml.safe_dump(spec)


def test_caching_is_off_everywhere(tmp_path: Path) -> None:
    spec = compiled(tmp_path)
    executed = [
        task
        for dag in all_dags(spec)
        for task in dag["tasks"].values()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    ]
    assert len(executed) == 9
    assert not any(task["cachingOptions"].get("enableCache", False) for task in executed)


def test_in_a_loop_only_what_kfp_local_fills_in_rightly(tmp_path: Path) -> None:
    """In a loop kfp.local replaces the output of every task outside it by the loop's item."""
    spec = compiled(tmp_path)
    loops = [task for dag in all_dags(spec) for task in dag["tasks"].values() if "parameterIterator" in task]
    for task in loops:
        assert not any("taskOutputParameter" in value for value in task["inputs"]["parameters"].values())


def test_says_where_and_what_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = compiled(tmp_path, "--set", "seed=3")
    said = capsys.readouterr().out
    assert f"compiled to {tmp_path}/pipeline.yaml" in said
    assert "--local" in said
    recipe = spec["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert read_recipe(recipe) == load_recipe("demo", ["seed=3"])

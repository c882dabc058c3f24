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
        "plan-proposals": {"demo-data", "plan"},
        "propose-all": {"demo-data", "plan", "plan-proposals"},
        "pretrain": {"demo-data", "plan", "propose-all"},
        "convert": {"plan", "pretrain"},
        "finetune": {"demo-data", "plan"},
        "finetune-2": {"convert", "demo-data", "plan"},
        "benchmark": {"finetune", "finetune-2", "pretrain", "propose-all"},
        "report": {"benchmark", "convert", "plan", "pretrain", "propose-all"},
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
        "shards": 2,
    }
    given = found["plan"]["inputs"]["parameters"]
    assert given.pop("benchmarks") == {"runtimeValue": {"constant": ""}}
    assert {name: value["componentInputParameter"] for name, value in given.items()} == {
        name: name for name in parameters if name != "shards"
    }
    methods = {
        task["inputs"]["parameters"]["method"]["runtimeValue"]["constant"]: task["inputs"]["parameters"]["init"]
        for name, task in found.items()
        if name.startswith("finetune")
    }
    assert methods["Scratch"] == {"runtimeValue": {"constant": "scratch"}}
    assert methods["Supervised"] == {"componentInputParameter": "supervised"}
    assert methods["SoCo"]["taskOutputParameter"]["producerTask"] == "convert"


def proposals_tasks(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the plan of the shards, the loop over them, what is looped over, and the merge."""
    dag = spec["components"]["comp-propose-all"]["dag"]["tasks"]
    (loop,) = (task for task in dag.values() if "parameterIterator" in task)
    inner = spec["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    assert set(inner) == {"propose"}
    return tasks(spec)["plan-proposals"], loop, inner["propose"], dag["merge-proposals"]


def test_image(tmp_path: Path) -> None:
    spec = compiled(tmp_path, "--image", "registry/soco:1")
    executors = spec["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {"registry/soco:1"}
    assert "pip install" not in yaml.safe_dump(spec)


def test_the_number_of_shards_is_a_parameter(tmp_path: Path) -> None:
    spec = compiled(tmp_path, "--shards", "32")
    shards = spec["root"]["inputDefinitions"]["parameters"]["shards"]
    assert "Parts in which the proposals are computed" in shards.pop("description")
    assert shards == {
        "defaultValue": 32.0,
        "isOptional": True,
        "parameterType": "NUMBER_INTEGER",
    }
    planned, loop, propose, merge = proposals_tasks(spec)
    assert planned["inputs"]["parameters"]["count"] == {"componentInputParameter": "shards"}
    given = tasks(spec)["propose-all"]["inputs"]["parameters"]
    for name in ("shards", "plan"):
        assert given[name]["taskOutputParameter"] == {"outputParameterKey": name, "producerTask": "plan-proposals"}
    assert loop["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--shards"}
    item = loop["parameterIterator"]["itemInput"]
    assert propose["inputs"]["parameters"]["shard"] == {"componentInputParameter": item}
    for task in (propose, merge):
        assert task["inputs"]["parameters"]["plan"]["componentInputParameter"].endswith("plan")
    collected = merge["inputs"]["parameters"]["shards"]["taskOutputParameter"]
    assert collected["producerTask"] == merge["dependentTasks"][0]


def test_shards_side_by_side(tmp_path: Path) -> None:
    assert "iteratorPolicy" not in proposals_tasks(compiled(tmp_path))[1]
    _, loop, _, _ = proposals_tasks(compiled(tmp_path, "--parallel-shards", "16"))
    assert loop["iteratorPolicy"] == {"parallelismLimit": 16}


def test_a_failed_shard_is_tried_again(tmp_path: Path) -> None:
    planned, _, propose, merge = proposals_tasks(compiled(tmp_path))
    for task in (planned, propose, merge):
        # The lock that a dead pod leaves on S3 is free after a minute.
        assert task["retryPolicy"] == {
            "maxRetryCount": 3,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "3600s",
        }
    assert proposals_tasks(compiled(tmp_path, "--shard-retries", "5"))[2]["retryPolicy"]["maxRetryCount"] == 5
    assert "retryPolicy" not in proposals_tasks(compiled(tmp_path, "--shard-retries", "0"))[2]


def test_shards_run_in_pods_without_a_gpu(tmp_path: Path) -> None:
    def resources(*arguments: str) -> dict[str, Any]:
        executors = compiled(tmp_path, *arguments)["deploymentSpec"]["executors"]
        found = {name: executor["container"].get("resources") for name, executor in executors.items()}
        # Planning and merging hold something of every image, and may take more than they ask for.
        for name in ("exec-plan-proposals", "exec-merge-proposals"):
            assert found[name] == {"memoryRequest": 4.294967296, "resourceMemoryRequest": "4Gi"}
        return dict(found["exec-propose"])

    assert resources() == {
        "cpuRequest": 4.0,
        "cpuLimit": 4.0,
        "memoryRequest": 8.589934592,
        "memoryLimit": 8.589934592,
        "resourceCpuRequest": "4",
        "resourceCpuLimit": "4",
        "resourceMemoryRequest": "8Gi",
        "resourceMemoryLimit": "8Gi",
    }
    chosen = resources("--shard-cpus", "500m", "--shard-memory", "900Mi")
    assert {chosen["resourceCpuRequest"], chosen["resourceCpuLimit"]} == {"500m"}
    assert {chosen["resourceMemoryRequest"], chosen["resourceMemoryLimit"]} == {"900Mi"}


def test_caching_is_off_everywhere(tmp_path: Path) -> None:
    spec = compiled(tmp_path)
    executed = [
        task
        for dag in all_dags(spec)
        for task in dag["tasks"].values()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    ]
    assert len(executed) == 11
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

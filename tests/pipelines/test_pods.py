"""What the pods of each stage are given, as it stands in the compiled pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")
from pipelines import pretrain_only
from pipelines.command import main
from pipelines.full_benchmark import build_pipeline

SITE = """
image: r/soco:cpu
gpu_image: r/soco:cuda
image_pull_secrets: [login]
claims: {data: /data, results: /results}
secrets: {s3: {AWS_ACCESS_KEY_ID: AWS_ACCESS_KEY_ID}}
environment: {AWS_DEFAULT_REGION: r1}
stages:
  cpu: {cpus: 1, memory: 4Gi, retries: 1, timeout_hours: 2.0, node_selector: {pool: cpu}}
  shards: {cpus: 500m, memory: 900Mi, retries: 5, timeout_hours: 3.0, node_selector: {pool: search}}
  gpu:
    gpus: 2
    gpu_type: example.org/gpu
    shared_memory: 8Gi
    timeout_hours: 0.5
    node_selector: {pool: gpu}
    tolerations: [{key: gpu, value: "yes", effect: NoExecute, tolerationSeconds: 60}]
  pretrain: {gpus: 4, memory: 100Gi, retries: 0}
"""
CPU = ["benchmark", "convert", "demo-data", "plan", "report"]
SHARDS = ["merge-proposals", "plan-proposals", "propose"]
GPU = ["finetune", "finetune-2"]


@pytest.fixture
def compiled(bare_environment: None, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return compile_with(tmp_path)


def compile_with(folder: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the containers and the Kubernetes settings of the stages, by their names."""
    (folder / "site.yaml").write_text(SITE)
    path = folder / "p.yaml"
    assert main(build_pipeline, "full_benchmark", ["--yaml", str(path), *arguments]) == 0
    spec, platform = yaml.safe_load_all(path.read_text())
    executors = spec["deploymentSpec"]["executors"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    containers = {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}
    return containers, {name.removeprefix("exec-"): value for name, value in settings.items()}


def test_resources_by_kind(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    containers, _ = compiled
    assert sorted(containers) == sorted([*CPU, *SHARDS, *GPU, "pretrain"])

    def asked(name: str) -> dict[str, Any]:
        return {key: value for key, value in containers[name]["resources"].items() if key.startswith("resource")}

    for name in CPU:
        assert asked(name) == {
            "resourceCpuRequest": "1",
            "resourceCpuLimit": "1",
            "resourceMemoryRequest": "4Gi",
            "resourceMemoryLimit": "4Gi",
        }
        assert "accelerator" not in containers[name]["resources"]
    assert asked("propose")["resourceCpuLimit"] == "500m"
    assert asked("propose")["resourceMemoryRequest"] == "900Mi"
    for name in GPU:
        # What the file leaves out is as without it.
        assert (asked(name)["resourceCpuLimit"], asked(name)["resourceMemoryLimit"]) == ("8", "64Gi")
        accelerator = containers[name]["resources"]["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("example.org/gpu", "2")
    assert containers["pretrain"]["resources"]["accelerator"]["resourceCount"] == "4"
    images = {name: container["image"] for name, container in containers.items()}
    assert {name for name, image in images.items() if image == "r/soco:cuda"} == {*GPU, "pretrain"}
    assert set(images.values()) == {"r/soco:cpu", "r/soco:cuda"}


def test_every_pod_has_volumes_secrets_and_environment(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    containers, settings = compiled
    assert set(settings) == set(containers)
    for name, pod in settings.items():
        assert {each["constant"]: each["mountPath"] for each in pod["pvcMount"]} == {
            "data": "/data",
            "results": "/results",
        }
        (secret,) = pod["secretAsEnv"]
        assert secret["secretName"] == "s3"
        assert secret["keyToEnv"] == [{"envVar": "AWS_ACCESS_KEY_ID", "secretKey": "AWS_ACCESS_KEY_ID"}]
        assert [each["secretName"] for each in pod["imagePullSecret"]] == ["login"]
        assert containers[name]["env"] == [{"name": "AWS_DEFAULT_REGION", "value": "r1"}]
        assert pod["podMetadata"]["labels"] == {"app.kubernetes.io/part-of": "soco"}


def test_time_nodes_and_shared_memory_by_kind(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, settings = compiled
    seconds = {name: int(pod["activeDeadlineSeconds"]) for name, pod in settings.items()}
    assert seconds == {
        **dict.fromkeys(CPU, 7200),
        **dict.fromkeys(SHARDS, 10800),
        **dict.fromkeys(GPU, 1800),
        "pretrain": 336 * 3600,
    }
    nodes = {name: pod.get("nodeSelector", {}).get("labels", {}).get("pool") for name, pod in settings.items()}
    assert nodes == {
        **dict.fromkeys(CPU, "cpu"),
        **dict.fromkeys(SHARDS, "search"),
        **dict.fromkeys(GPU, "gpu"),
        "pretrain": None,
    }
    shared = {name: pod["emptyDirMounts"] for name, pod in settings.items() if "emptyDirMounts" in pod}
    assert set(shared) == {*GPU, "pretrain"}
    assert [(each["mountPath"], each["medium"], each["sizeLimit"]) for each in shared["finetune"]] == [
        ("/dev/shm", "Memory", "8Gi")
    ]
    assert settings["finetune"]["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": "60"}
    ]
    assert settings["pretrain"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "tolerations" not in settings["plan"]


def test_retries_by_kind(bare_environment: None, tmp_path: Path) -> None:
    compile_with(tmp_path)
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    tasks = {**spec["root"]["dag"]["tasks"], **spec["components"]["comp-propose-all"]["dag"]["tasks"]}
    retries = {name: task.get("retryPolicy", {}).get("maxRetryCount") for name, task in tasks.items()}
    assert retries == {
        **dict.fromkeys(CPU, 1),
        **dict.fromkeys(GPU, 3),
        "plan-proposals": 5,
        "merge-proposals": 5,
        "pretrain": None,
        "propose-all": None,
        "for-loop-1": None,
    }
    policy = tasks["finetune"]["retryPolicy"]
    assert (policy["backoffDuration"], policy["backoffFactor"]) == ("60s", 2.0)


def test_the_step_that_launches_a_job_needs_no_gpu_and_waits_as_long_as_the_job(
    bare_environment: None, tmp_path: Path
) -> None:
    containers, settings = compile_with(tmp_path, "--nodes", "2")
    assert containers["pretrain"]["image"] == "r/soco:cpu"
    assert "accelerator" not in containers["pretrain"]["resources"]
    assert containers["pretrain"]["resources"]["resourceCpuLimit"] == "500m"
    assert "emptyDirMounts" not in settings["pretrain"]
    # Ten days of work, a day in the queue, an hour for nodes, and an hour more.
    assert int(settings["pretrain"]["activeDeadlineSeconds"]) == 864_000 + 86_400 + 3_600 + 3_600
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert spec["root"]["inputDefinitions"]["parameters"]["job"]["defaultValue"].startswith(
        '{"nodes":2,"image":"r/soco:cu'
    )
    given = spec["root"]["dag"]["tasks"]["pretrain"]["inputs"]["parameters"]
    assert given["job"] == {"componentInputParameter": "job"}


def test_on_this_machine_nothing_of_it(bare_environment: None, tmp_path: Path) -> None:
    """What kfp.local would not know is not there, and neither is a stage tried again that nobody said so of."""
    from kfp import compiler

    from pipelines.proposals import ShardTasks
    from pipelines.shape import Shape
    from pipelines.tasks import Tasks

    path = tmp_path / "local.yaml"
    compiler.Compiler().compile(build_pipeline(Shape(Tasks("i"), ShardTasks())), str(path))
    (spec,) = yaml.safe_load_all(path.read_text())
    assert not any("retryPolicy" in task for name, task in spec["root"]["dag"]["tasks"].items() if "propos" not in name)


def test_pretraining_alone(bare_environment: None, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    path = tmp_path / "p.yaml"
    arguments = ["--yaml", str(path), "--images", "/data/i", "--shards", "9"]
    assert main(pretrain_only.build_pipeline, "pretrain_only", arguments, evaluates=False) == 0
    spec = next(yaml.safe_load_all(path.read_text()))
    found = spec["root"]["dag"]["tasks"]
    assert set(found) == {"plan", "plan-proposals", "propose-all", "pretrain", "convert", "report"}
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"recipe", "images", "output", "tracking_uri", "shards"}
    assert all(each["description"] for each in parameters.values())
    plan = found["plan"]["inputs"]["parameters"]
    assert plan["pretraining_alone"] == {"runtimeValue": {"constant": True}}
    report = found["report"]["inputs"]["parameters"]
    assert report["converted"]["taskOutputParameter"]["producerTask"] == "convert"
    assert not any(name.startswith("benchmark_") for name in report)

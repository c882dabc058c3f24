"""The PyTorchJob as a dictionary: what the operator needs, what its schema knows, what the command takes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from soco_core.errors import InputError
from soco_core.launch import JobSettings, Launcher, Work, build_job, job_name
from soco_core.launch.settings import Toleration
from tests.launch.conftest import SETTINGS, WORK

REPOSITORY = Path(__file__).resolve().parents[2]
FULL = JobSettings(
    nodes=2,
    image="registry.example/soco:cuda",
    image_pull_secrets=("registry",),
    namespace="team",
    node_selector={"accelerator": "v100"},
    tolerations=(Toleration(key="gpu", operator="Equal", value="v100", effect="NoExecute", tolerationSeconds=60),),
    claims={"data": "/data", "results": "/results"},
    scratch_size="200Gi",
    secrets=("s3", "mlflow"),
    env={"NCCL_SOCKET_IFNAME": "eth0"},
    queue="gpus",
    priority_class="research",
)
LAUNCHER = Launcher(name="step-7", run="run-1", pod="step-7", uid="uid-7")


def pod_of(job: dict[str, Any], role: str = "Master") -> dict[str, Any]:
    return dict(job["spec"]["pytorchReplicaSpecs"][role]["template"]["spec"])


def test_two_nodes() -> None:
    job = build_job(SETTINGS, WORK)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"]["name"] == job_name(WORK)
    spec = job["spec"]
    assert spec["nprocPerNode"] == "8"
    assert {role: part["replicas"] for role, part in spec["pytorchReplicaSpecs"].items()} == {"Master": 1, "Worker": 1}
    assert {part["restartPolicy"] for part in spec["pytorchReplicaSpecs"].values()} == {"OnFailure"}
    assert spec["runPolicy"] == {
        "cleanPodPolicy": "Running",
        "backoffLimit": 20,
        "activeDeadlineSeconds": 864_000,
        "ttlSecondsAfterFinished": 259_200,
    }
    (container,) = pod_of(job)["containers"]
    assert container["name"] == "pytorch"
    assert container["command"] == ["torchrun", "--max-restarts", "0", "-m", "soco_core.cli", "pretrain"]
    assert container["args"] == ["--output", "/results"]
    assert container["resources"]["limits"] == {"memory": "240Gi", "nvidia.com/gpu": "8"}
    assert pod_of(job) == pod_of(job, "Worker")
    assert "ownerReferences" not in job["metadata"]


def test_one_node_has_no_worker_and_no_gpu_asks_for_none() -> None:
    job = build_job(JobSettings(nodes=1, image="soco", gpus_per_node=0, processes_per_node=4), WORK)
    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    assert job["spec"]["nprocPerNode"] == "4"
    assert "gpu" not in str(pod_of(job)["containers"])


def test_pods_are_kept_on_a_short_lead() -> None:
    pod = pod_of(build_job(FULL, WORK))
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_everything_that_can_be_set_is_there() -> None:
    job = build_job(FULL, WORK, name="mine", launcher=LAUNCHER)
    assert job["metadata"]["name"] == "mine"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["metadata"]["labels"]["soco/run"] == "run-1"
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
    pod = template["spec"]
    assert pod["nodeSelector"] == {"accelerator": "v100"}
    assert pod["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "v100", "effect": "NoExecute", "tolerationSeconds": 60}
    ]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["priorityClassName"] == "research"
    (container,) = pod["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}, {"secretRef": {"name": "mlflow"}}]
    volumes = {volume.pop("name"): volume for volume in copy.deepcopy(pod["volumes"])}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted == {
        "/dev/shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
        "/tmp": {"emptyDir": {"sizeLimit": "200Gi"}},
        "/data": {"persistentVolumeClaim": {"claimName": "data"}},
        "/results": {"persistentVolumeClaim": {"claimName": "results"}},
    }
    assert len(mounted) == len(volumes)


def test_names() -> None:
    assert job_name(WORK) == job_name(WORK)
    elsewhere = Work("pretrain", "s3://bucket/pretrain/0123456789abcdef", WORK.fingerprint, ())
    assert job_name(elsewhere) != job_name(WORK)
    assert job_name(WORK, 2) == f"{job_name(WORK)}-2"
    assert len(f"{job_name(WORK, 99)}-worker-999") <= 63  # of a pod's host name


@pytest.mark.parametrize(
    ("settings", "missing"), [(JobSettings(nodes=1), "image"), (JobSettings(image="soco"), "nodes")]
)
def test_what_a_job_cannot_do_without(settings: JobSettings, missing: str) -> None:
    with pytest.raises(InputError, match=f"{missing} is missing"):
        build_job(settings, WORK)


def test_it_is_built_without_the_package_kubernetes() -> None:
    script = (
        "import sys; sys.modules['kubernetes'] = None\n"
        "from soco_core.launch import JobSettings, Work, build_job\n"
        "build_job(JobSettings(nodes=1, image='soco'), Work('pretrain', '/r', 'f' * 16, ()))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "False\n"


def strict(schema: Any) -> Any:
    """Refuse fields that a schema does not list, as a typing mistake is one; Kubernetes drops them without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="module")
def check() -> Any:
    """A strict validator of the operator's own schema, which lies beside a checkout."""
    jsonschema = pytest.importorskip("jsonschema")
    shared = (
        Path(os.environ["SOCO_SHARED_DATA"]).parent
        if "SOCO_SHARED_DATA" in os.environ
        else REPOSITORY.parent / "shared"
    )
    file = shared / "crds" / "kubeflow.org_pytorchjobs.yaml"
    if not file.is_file():
        reason = f"the schema of PyTorchJob is not at {file}"
        if os.environ.get("SOCO_REQUIRE_SHARED_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    definition = yaml.safe_load(file.read_text())
    schema = strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # of Kubernetes itself
    validator = jsonschema.Draft202012Validator(schema)
    return lambda job: [error.message for error in validator.iter_errors(job)]


@pytest.mark.parametrize("settings", [SETTINGS, FULL, JobSettings(nodes=1, image="soco", gpus_per_node=0)])
def test_the_operators_schema_takes_it(check: Any, settings: JobSettings) -> None:
    job = build_job(settings, WORK, launcher=LAUNCHER)
    # The schema leaves the template's metadata open.
    for part in job["spec"]["pytorchReplicaSpecs"].values():
        assert set(part["template"].pop("metadata")) == {"labels", "annotations"}
    assert check(job) == []


@pytest.mark.parametrize(
    "mistake",
    [
        lambda job: job["spec"].update(nprocPerNode=8),
        lambda job: job["spec"]["runPolicy"].update(backofLimit=1),
        lambda job: pod_of(job)["containers"][0].update(imagePullpolicy="Always"),
    ],
)
def test_the_check_finds_mistakes(check: Any, mistake: Any) -> None:
    job = build_job(FULL, WORK)
    mistake(job)
    assert check(job)

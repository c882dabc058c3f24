"""The manifests as they are: nothing is wrong with them, and what they run does what they say."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from k8s.check import BASE, JOB, K8S, OVERLAYS, launched_job, main
from k8s.documents import read_documents, render
from k8s.lint import check_documents
from k8s.together import templates
from soco_core.storage import s3_client
from tests.services import MlflowServer, free_port

Document = dict[str, Any]
Documents = list[Document]
FOLDERS = ["base", "overlays/cpu-small", "overlays/v100"]


def find(documents: Documents, kind: str, name: str) -> Document:
    (found,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def container(documents: Documents, name: str) -> dict[str, Any]:
    spec = find(documents, "Deployment", "soco-mlflow")["spec"]["template"]["spec"]
    (found,) = [each for each in [*spec["initContainers"], *spec["containers"]] if each["name"] == name]
    return found


def pods(documents: Documents) -> list[Any]:
    return [template["spec"] for each in documents for _, template in templates(each)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_wrong_with_a_folder(folder: str, rendered: Callable[[str], Documents]) -> None:
    documents = rendered(folder)
    assert check_documents(documents, folder, []) == []
    assert {each["kind"] for each in documents} >= {
        *("Namespace", "PersistentVolumeClaim", "Role", "RoleBinding", "ConfigMap", "Deployment", "StatefulSet"),
        *("Service", "NetworkPolicy"),
    }


def test_nothing_is_wrong_with_the_job(job: Document, base: Documents) -> None:
    assert check_documents([job], "job", base) == []
    assert check_documents([job], "job") == []


def test_nothing_is_wrong_with_the_job_that_a_pipeline_launches(base: Documents) -> None:
    assert check_documents([launched_job()], "launcher", base) == []
    wrong = launched_job()
    wrong["spec"]["pytorchReplicaSpecs"]["Master"]["replicas"] = 2
    assert [problem.field for problem in check_documents([wrong], "launcher", base)] == [
        "spec.pytorchReplicaSpecs.Master.replicas"
    ]


def test_the_base_is_what_kustomize_makes_of_its_files(base: Documents, rendered: Callable[[str], Documents]) -> None:
    def names(documents: Documents) -> list[tuple[str, str, str]]:
        return sorted(
            (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace") or "") for each in documents
        )

    assert names(base) == names(rendered("base"))


def test_an_overlay_is_moved_and_takes_its_images_from_elsewhere_by_its_own_fields(
    rendered: Callable[[str], Documents], tmp_path: Path
) -> None:
    rendered("base")  # or skip
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for overlay in OVERLAYS:
        file = tmp_path / "k8s" / overlay.relative_to(K8S) / "kustomization.yaml"
        text = file.read_text().replace("namespace: soco\n", "namespace: team-a\n")
        file.write_text(text.replace("newName: registry.example.com/soco", "newName: mirror.local/soco"))
        documents = render(file.parent)
        assert {each["metadata"].get("namespace") for each in documents if each["kind"] != "Namespace"} == {"team-a"}
        assert [each["metadata"]["name"] for each in documents if each["kind"] == "Namespace"] == ["team-a"]
        assert check_documents(documents, overlay.name, []) == []
        images = {
            each["image"] for pod in pods(documents) for each in pod["containers"] + pod.get("initContainers", [])
        }
        assert {image for image in images if "soco" in image} == {"mirror.local/soco:0.1.0-cpu"}


def test_the_small_overlay_asks_for_little_and_the_large_one_for_imagenet(rendered: Callable[[str], Documents]) -> None:
    small, large = rendered("overlays/cpu-small"), rendered("overlays/v100")
    limits = [each["resources"]["limits"]["memory"] for pod in pods(small) for each in pod["containers"]]
    assert sorted(limits) == ["1Gi", "512Mi", "512Mi"]
    assert container(small, "mlflow")["args"].count("--workers=1") == 1
    assert find(small, "PersistentVolumeClaim", "soco-data")["spec"]["accessModes"] == ["ReadWriteOnce"]
    data = find(large, "PersistentVolumeClaim", "soco-data")["spec"]
    assert (data["accessModes"], data["resources"]["requests"]["storage"]) == (["ReadWriteMany"], "300Gi")
    assert all("affinity" in pod for pod in pods(large))
    assert not any("affinity" in pod for pod in pods(small))


def test_secrets_are_named_and_the_readme_says_how_they_are_made(base: Documents, job: Document) -> None:
    wanted: dict[str, set[str]] = {}
    for pod in pods([*base, job]):
        for each in pod["containers"] + pod.get("initContainers", []):
            for source in each.get("envFrom", []):
                if "secretRef" in source:
                    wanted.setdefault(source["secretRef"]["name"], set())
            for variable in each.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    wanted.setdefault(reference["name"], set()).add(reference["key"])
    text = (K8S / "README.md").read_text()
    made = {
        name: set(re.findall(r"--from-literal=(\w+)=", literals))
        for name, literals in re.findall(r"create secret generic ([\w-]+)((?:[^\n]*\\\n)?[^\n]*)", text)
    }
    assert made.keys() == wanted.keys()
    assert all(keys <= made[name] for name, keys in wanted.items())


def test_the_pipeline_may_do_what_its_launcher_does_and_nothing_else(base: Documents) -> None:
    source = "".join(path.read_text() for path in (K8S.parent / "soco_core" / "launch").glob("*.py"))
    used = {
        (f"kubeflow.org/{'pytorchjobs'}", verb)
        for verb in re.findall(r"_custom\.(\w+?)_namespaced_custom_object", source)
    }
    for verb, thing in re.findall(r"_core\.(\w+?)_namespaced_(\w+)", source):
        resource = {"pod": "pods", "pod_log": "pods/log", "event": "events"}[thing]
        used.add((f"/{resource}", {"read": "get"}.get(verb, verb)))
    if "Watch(" in source:
        used.add(("kubeflow.org/pytorchjobs", "watch"))
    if "/log" in source:
        used.add(("/pods/log", "get"))
    given = {
        (f"{group}/{resource}", verb)
        for rule in find(base, "Role", "soco-launcher")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == used


@dataclass
class ManifestsMlflow(MlflowServer):
    """The server with the manifest's arguments, but for where it stores and listens."""

    arguments: list[str] = field(default_factory=list)

    def command(self) -> list[str]:
        """See :class:`MlflowServer`."""
        here = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination": f"{self.folder}/artifacts",
        }
        options = dict(argument.split("=", 1) for argument in self.arguments)
        assert here.keys() < options.keys()
        return [sys.executable, "-m", "mlflow", "server", *(f"{key}={here.get(key, options[key])}" for key in options)]

    def environment(self) -> dict[str, str]:
        """See :class:`MlflowServer`."""
        return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture
def server(base: Documents, tmp_path: Path) -> Iterator[ManifestsMlflow]:
    server = ManifestsMlflow(tmp_path, free_port(), arguments=container(base, "mlflow")["args"])
    server.start()
    yield server
    server.stop()


def test_mlflow_answers_to_the_names_that_the_cluster_calls_it_by(server: ManifestsMlflow, base: Documents) -> None:
    def status(host: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        try:
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status
        finally:
            connection.close()

    api = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    settings = find(base, "ConfigMap", "soco-settings")["data"]
    called = settings["MLFLOW_TRACKING_URI"].removeprefix("http://")
    names = [called, "soco-mlflow.soco.svc:5000", "soco-mlflow.team-a.svc.cluster.local:5000", "localhost:5000"]
    assert {name: status(name, api) for name in names} == dict.fromkeys(names, 200)
    # Kubernetes probes by the pod's address.
    assert status("10.4.0.7:5000", "/health") == 200
    assert status("soco-mlflow.attacker.example", api) == 403


def test_the_buckets_are_made_once_and_may_be_there_already(base: Documents, s3: str) -> None:
    made = container(base, "buckets")
    assert made["command"][:2] == ["python3", "-c"]
    given = {each["name"]: each["value"] for each in made["env"]}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *made["command"][1:]],
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "bucket mlflow\nbucket soco\n"), done.stderr
    names = {bucket["Name"] for bucket in s3_client().list_buckets()["Buckets"]}
    destination = next(each for each in container(base, "mlflow")["args"] if "--artifacts-destination=s3://" in each)
    assert {destination.split("/")[2], "soco"} == {"mlflow", "soco"} <= names


def test_make_check_k8s_says_what_it_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "k8s/pytorchjob-soco.yaml: 1 object, ok\n" in said
    assert "soco_core/launch: 1 object, ok\n" in said


def test_a_wrong_file_ends_it_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB.read_text().replace("replicas: 1", "replicas: 2", 1))
    assert main([str(file)]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        f"{file}: PyTorchJob/soco-pretrain: spec.pytorchReplicaSpecs.Master.replicas: "
        "must be 1, not 2; more nodes are more Workers"
    )
    assert f"{file}: 1 object, 1 wrong\n" in said.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", "not YAML: mapping values are not allowed here"),
        ("kind: A\nkind: B", "the key 'kind' is given twice"),
        ("- a", "document 1 is list; it must be an object"),
    ],
)
def test_what_is_no_manifest_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    assert main([str(file)]) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert line.startswith(f"error: {file}: ")
    assert said in line


def test_what_kustomize_refuses_is_one_line(
    rendered: Callable[[str], Documents], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered("base")  # or skip
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    assert main([str(tmp_path)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}: kustomize refuses it: ")
    assert "gone.yaml" in line


def test_what_is_missing_is_said_or_an_error_where_it_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SOCO_CRDS", str(tmp_path))
    monkeypatch.delenv("SOCO_REQUIRE_KUSTOMIZE", raising=False)
    monkeypatch.delenv("SOCO_REQUIRE_CRDS", raising=False)
    assert main([]) == 0
    said = capsys.readouterr()
    assert "overlays are not checked" in said.err
    assert "CRD (kubeflow.org_pytorchjobs.yaml) is not in" in said.err
    assert "k8s/base: 15 objects, ok\n" in said.out
    assert "overlays" not in said.out
    monkeypatch.setenv("SOCO_REQUIRE_CRDS", "1")
    assert main([]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("SOCO_REQUIRE_CRDS is set")
    monkeypatch.setenv("SOCO_REQUIRE_KUSTOMIZE", "1")
    assert main([]) == 1
    assert capsys.readouterr().err.endswith("SOCO_REQUIRE_KUSTOMIZE is set\n")


def test_the_files_of_a_folder_are_all_in_it() -> None:
    for folder in (BASE, *OVERLAYS):
        text = (folder / "kustomization.yaml").read_text()
        for file in folder.glob("*.yaml"):
            assert file.name == "kustomization.yaml" or f" {file.name}" in text, file
        assert read_documents(folder / "kustomization.yaml")

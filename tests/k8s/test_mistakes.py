"""Each mistake of a table is caught, in one line that names the file, the object and the field."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from k8s.lint import check_documents

from .mistakes import DELETED, IN_JOB, IN_JOB_BY_CRD, IN_SET, JOB, POD, REPLICAS, Mistake

Document = dict[str, Any]


def change(document: Document, path: str, value: Any) -> None:
    """Do what a mistake says."""
    target: Any = document
    parts = re.findall(r"[^.\[\]]+|\[[^\]]*\]", path)
    for number, part in enumerate(parts):
        key: Any = part.strip("[]").replace("~", ".")
        if isinstance(target, list):
            key = int(key) if key.isdecimal() else [item["name"] for item in target].index(key)
        if number < len(parts) - 1:
            target = target[key]
        elif value is DELETED:
            del target[key]
        else:
            target[key] = value(target[key]) if callable(value) else value


def lines(documents: list[Document], source: str, beside: list[Document] | None) -> list[str]:
    return [str(problem) for problem in check_documents(documents, source, beside)]


def assert_said(said: list[str], subject: str, mistake: Mistake, source: str) -> None:
    """One line is said, or the same of the Worker besides, whose pod is the Master's."""
    start = f"{source}: {subject}: {mistake.field}: "
    assert said, "nothing is said"
    assert said[0].startswith(start), said
    assert mistake.said in said[0], said
    assert all("\n" not in line and len(line) < 300 for line in said)
    of_the_worker = said[0].replace(f"{REPLICAS}.Master.", f"{REPLICAS}.Worker.")
    assert said[1:] in ([], [of_the_worker]), said


@pytest.mark.parametrize("name", IN_JOB)
def test_a_mistake_in_the_job_is_caught(name: str, job: Document, base: list[Document]) -> None:
    mistake = IN_JOB[name]
    change(job, mistake.path, mistake.value)
    assert_said(lines([job], "job.yaml", base), f"PyTorchJob/{job['metadata']['name']}", mistake, "job.yaml")


@pytest.mark.parametrize("name", IN_JOB_BY_CRD)
def test_a_mistake_in_the_job_is_caught_by_its_strict_schema(
    name: str, job: Document, base: list[Document], crd: Path
) -> None:
    mistake = IN_JOB_BY_CRD[name]
    change(job, mistake.path, mistake.value)
    assert_said(lines([job], "job.yaml", base), JOB, mistake, "job.yaml")


@pytest.mark.parametrize("name", IN_SET)
def test_a_mistake_in_an_overlay_is_caught(name: str, base: list[Document]) -> None:
    subject, mistake = IN_SET[name]
    documents = deepcopy(base)
    kind, _, called = subject.partition("/")
    (document,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, called)]
    change(document, mistake.path, mistake.value)
    said = [line for line in lines(documents, "base", []) if subject in line]
    assert_said(said, subject, mistake, "base")


def test_pods_of_two_images_are_refused(job: Document, base: list[Document]) -> None:
    job = json.loads(json.dumps(job))  # the file has one pod for both
    worker = f"{REPLICAS}.Worker.template.spec.containers[pytorch]"
    change(job, f"{worker}.image", "a.io/soco:2")
    assert lines([job], "job.yaml", base) == [
        f"job.yaml: {JOB}: {worker}.image: differs from the Master's; all processes need the same image"
    ]


def test_a_secret_in_a_file_is_refused() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "soco-s3"}, "stringData": {"a": "b"}}
    assert lines([secret], "secret.yaml", None) == [
        "secret.yaml: Secret/soco-s3: stringData: a secret in a file; "
        "make it by `kubectl create secret` (k8s/README.md)"
    ]


def test_two_objects_of_one_name_are_refused(base: list[Document]) -> None:
    documents = [*base, deepcopy(base[-1])]
    assert [line for line in lines(documents, "base", []) if "2 objects have this kind and name" in line]


def test_a_claim_of_one_node_is_refused_for_two(job: Document, base: list[Document]) -> None:
    claims = deepcopy(base)
    for each in claims:
        if each["kind"] == "PersistentVolumeClaim":
            each["spec"]["accessModes"] = ["ReadOnlyMany"]
    said = lines([job], "job.yaml", claims)
    field = f"{JOB}: {POD}.volumes[checkpoints].persistentVolumeClaim.claimName"
    assert said[0] == (
        f"job.yaml: {field}: pods on several nodes mount it, so it must be ReadWriteMany, and it is ReadOnlyMany"
    )
    assert not [line for line in said if "volumes[data]" in line]  # it is read only
    del job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert lines([job], "job.yaml", claims) == []

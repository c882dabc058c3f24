"""What schemas miss in a PyTorchJob: what the training operator looks for, what it sets itself, and what soco needs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from k8s.pods import quantity
from k8s.problems import Document, Finding, joined, mapping, mappings, named

ROLES = ("Master", "Worker")
CONTAINER = "pytorch"
ROLE_PATH = "spec.pytorchReplicaSpecs"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""Services are named after the job, with `-master-0` at the end; the operator refuses what is no name of a service."""
RENDEZVOUS = re.compile(
    r"--?(rdzv[-_].*|nnodes|nproc[-_]per[-_]node|node[-_]rank|master[-_](addr|port)|standalone)(=.*)?"
)
OPERATORS_OWN = re.compile(r"PET_.*|RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|LOCAL_RANK")
TORCHRUN_PATIENCE = 30
"""Seconds that torchrun gives its processes after SIGTERM."""


def job_findings(job: Document) -> Iterator[Finding]:
    """Yield what is wrong with a PyTorchJob, but for its pods as such."""
    spec = mapping(job.get("spec"))
    name = str(mapping(job.get("metadata")).get("name", ""))
    if name and not NAME.fullmatch(name):
        yield "metadata.name", f"{name!r} must be at most 40 of a-z, 0-9 and -, beginning with a letter"
    roles = mapping(spec.get("pytorchReplicaSpecs"))
    yield from _roles(roles)
    yield from _policy(mapping(spec.get("runPolicy")))
    yield from _elastic(spec, roles)
    processes = str(spec.get("nprocPerNode", ""))
    if not re.fullmatch(r"[1-9][0-9]*", processes):
        yield (
            "spec.nprocPerNode",
            f'must be the number of processes a pod, such as "8", not {spec.get("nprocPerNode")!r}',
        )
    for role, replica in roles.items():
        template = mapping(mapping(replica).get("template"))
        path = f"{ROLE_PATH}.{role}.template"
        yield from _pod(template, path)
        for place, container in named(mapping(template.get("spec")).get("containers"), f"{path}.spec.containers"):
            if container.get("name") == CONTAINER:
                yield from _container(container, place, processes)
    yield from _alike(roles)


def pods_of(job: Document) -> int:
    """Return how many pods a job has."""
    roles = mapping(mapping(job.get("spec")).get("pytorchReplicaSpecs"))
    return sum(int(mapping(replica).get("replicas", 1)) for replica in roles.values())


def _roles(roles: Mapping[str, Any]) -> Iterator[Finding]:
    for role, replica in roles.items():
        count, policy = mapping(replica).get("replicas"), mapping(replica).get("restartPolicy")
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            yield (
                f"{ROLE_PATH}.{role}",
                f"the operator knows Master and Worker only{(near and f'; did you mean {near[0]}?') or ''}",
            )
        if role == "Master" and count != 1:
            yield f"{ROLE_PATH}.Master.replicas", f"must be 1, not {count}; more nodes are more Workers"
        elif role == "Worker" and (not isinstance(count, int) or count < 1):
            yield f"{ROLE_PATH}.Worker.replicas", f"must be 1 or more, not {count}; leave Worker out for one node"
        if policy != "OnFailure":
            yield (
                f"{ROLE_PATH}.{role}.restartPolicy",
                f"must be OnFailure, not {policy}: torchrun ends with status 1 after a preemption, too",
            )
    if "Master" not in roles and "Worker" in roles:
        yield f"{ROLE_PATH}.Master", "missing; it has rank 0"


def _policy(policy: Mapping[str, Any]) -> Iterator[Finding]:
    wanted = {
        "backoffLimit": "an error that comes again would be tried without end",
        "activeDeadlineSeconds": "a job that hangs would keep its nodes for good",
        "ttlSecondsAfterFinished": "jobs that ended would stay for good",
    }
    for field, why in wanted.items():
        if field not in policy:
            yield f"spec.runPolicy.{field}", f"missing; {why}"
    if policy.get("cleanPodPolicy") not in {"Running", "All"}:
        given = policy.get("cleanPodPolicy", "missing")
        yield (
            "spec.runPolicy.cleanPodPolicy",
            f"must be Running or All, not {given}: a pod that hangs would keep its GPUs",
        )


def _elastic(spec: Mapping[str, Any], roles: Mapping[str, Any]) -> Iterator[Finding]:
    if "elasticPolicy" not in spec:
        return
    if "nProcPerNode" in mapping(spec["elasticPolicy"]) and "nprocPerNode" in spec:
        yield "spec.elasticPolicy.nProcPerNode", "may not stand beside spec.nprocPerNode; remove it"
    elif "Master" in roles:
        yield "spec.elasticPolicy", "is for jobs without a Master, which succeed as soon as one Worker does; remove it"


def _pod(template: Mapping[str, Any], path: str) -> Iterator[Finding]:
    spec = mapping(template.get("spec"))
    containers = mappings(spec.get("containers"))
    names = [container.get("name") for container in containers]
    if CONTAINER not in names:
        yield f"{path}.spec.containers", f"one must be named {CONTAINER}; there are {joined(names)}"
    if "restartPolicy" in spec:
        yield f"{path}.spec.restartPolicy", "does not count; the replica's own does. Remove it"
    grace = spec.get("terminationGracePeriodSeconds", TORCHRUN_PATIENCE)
    if isinstance(grace, int) and grace <= TORCHRUN_PATIENCE:
        why = "that is what torchrun gives its processes for a checkpoint"
        yield f"{path}.spec.terminationGracePeriodSeconds", f"must be more than {TORCHRUN_PATIENCE}, not {grace}: {why}"
    annotations = mapping(mapping(template.get("metadata")).get("annotations"))
    if annotations.get("sidecar.istio.io/inject") != "false":
        place = f"{path}.metadata.annotations[sidecar.istio.io/inject]"
        yield place, 'must be "false": a sidecar would keep the finished pod running'


def _container(container: Mapping[str, Any], path: str, processes: str) -> Iterator[Finding]:
    words = [str(word) for key in ("command", "args") for word in container.get(key) or []]
    launched = next((number for number, word in enumerate(words) if word.rsplit("/", 1)[-1] == "torchrun"), None)
    if launched is None:
        yield f"{path}.command", "must start torchrun, which starts the processes"
    for word in words:
        if RENDEZVOUS.fullmatch(word):
            yield (
                f"{path}.command",
                f"{word.split('=')[0]} is the operator's affair (PET_* in the environment); remove it",
            )
    for place, variable in named(container.get("env"), f"{path}.env"):
        if OPERATORS_OWN.fullmatch(str(variable.get("name"))):
            yield place, "is set by the operator; remove it"
    limits = mapping(mapping(container.get("resources")).get("limits"))
    for name, value in limits.items():
        if name.endswith("/gpu") and processes.isdecimal() and quantity(value) != int(processes):
            yield (
                f"{path}.resources.limits.{name}",
                f"{value} GPUs, but spec.nprocPerNode is {processes}; make them the same",
            )
    if "/dev/shm" not in {mount.get("mountPath") for mount in mappings(container.get("volumeMounts"))}:
        yield f"{path}.volumeMounts", "nothing at /dev/shm: 64 MB are too little for images on their way; mount memory"


def _alike(roles: Mapping[str, Any]) -> Iterator[Finding]:
    """Two nodes with other images or resources are a mistake in one of them."""

    def containers(role: str) -> dict[object, Mapping[str, Any]]:
        spec = mapping(mapping(mapping(roles.get(role)).get("template")).get("spec"))
        return {container.get("name"): container for container in mappings(spec.get("containers"))}

    master, worker = containers("Master").get(CONTAINER), containers("Worker").get(CONTAINER)
    if master and worker:
        for field in ("image", "command", "args"):
            if master.get(field) != worker.get(field):
                place = f"{ROLE_PATH}.Worker.template.spec.containers[{CONTAINER}].{field}"
                yield place, f"differs from the Master's; all processes need the same {field}"

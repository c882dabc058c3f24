"""A stage as a PyTorchJob of Kubeflow's training operator (`kubeflow.org/v1`): a dictionary, no cluster needed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soco_core.artifacts.fingerprint import fingerprint
from soco_core.errors import InputError
from soco_core.launch.settings import TEMPORARY, JobSettings

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "pytorchjobs"
CONTAINER = "pytorch"
"""The operator looks for a container of this name."""
USER = 10001
"""The image's user and group."""
RESULT_LABEL = "soco/result"
RUN_LABEL = "soco/run"
"""The pipeline run: all that is left of it is found, and deleted, by this label."""
RESULT_PLACE = "soco/result-uri"
SETTINGS_MARK = "soco/settings"
LAUNCHER_MARK = "soco/launcher"
SHORT_DIGEST = 4


@dataclass(frozen=True)
class Work:
    """What the pods compute."""

    stage: str
    """A command of `soco`."""
    result: str
    """Directory or URI of the result."""
    fingerprint: str
    """Of the result."""
    arguments: tuple[str, ...]
    """Of the command, without its name."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the pods must know besides, such as where to track; no secrets."""


@dataclass(frozen=True)
class Launcher:
    """Who launches the job; empty texts where it is not known."""

    name: str = ""
    """Tells one attempt of the launching step from another."""
    run: str = ""
    """Id of the pipeline run."""
    pod: str = ""
    """Name of the launching pod, with which the job is to go."""
    uid: str = ""


def job_name(work: Work, attempt: int = 1) -> str:
    """Return the job's name: the same for the same result at the same place, so that a restarted step finds it again.

    Args:
        work: what the pods compute.
        attempt: counts from 1; a job that has failed leaves its name occupied until it is removed.
    """
    place = hashlib.sha256(work.result.encode()).hexdigest()[:SHORT_DIGEST]
    return f"soco-{work.stage}-{work.fingerprint}-{place}" + (f"-{attempt}" if attempt > 1 else "")


def settings_fingerprint(settings: JobSettings, work: Work) -> str:
    """Return what tells a job from another one for the same result with other settings."""
    return fingerprint({**settings.model_dump(mode="json"), "arguments": list(work.arguments)})


def build_job(settings: JobSettings, work: Work, *, name: str = "", launcher: Launcher | None = None) -> dict[str, Any]:
    """Build the PyTorchJob: a master and `nodes - 1` workers, alike but for their role.

    Args:
        settings: with an image and at least one node.
        work: what the pods compute.
        name: of the job; by default that of :func:`job_name`.
        launcher: who launches it.

    Raises:
        InputError: the settings name no image, or no node.
    """
    if settings.nodes < 1 or not settings.image:
        missing = "image" if settings.nodes else "nodes"
        raise InputError(f"parameter `job`: {missing} is missing; give it, a job needs nodes and an image")
    launcher = launcher or Launcher()
    labels = _labels(work, launcher)
    template = {
        "metadata": {
            "labels": labels,
            # The sidecar would keep a finished pod running, and knows nothing of NCCL.
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": _pod(settings, work),
    }
    roles = {"Master": 1} | ({"Worker": settings.nodes - 1} if settings.nodes > 1 else {})
    metadata: dict[str, Any] = {
        "name": name or job_name(work),
        "labels": labels | ({"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else {}),
        "annotations": {
            RESULT_PLACE: work.result,
            SETTINGS_MARK: settings_fingerprint(settings, work),
            LAUNCHER_MARK: launcher.name,
        },
    }
    if settings.namespace:
        metadata["namespace"] = settings.namespace
    if launcher.uid:
        metadata["ownerReferences"] = [owner_reference(launcher)]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PyTorchJob",
        "metadata": metadata,
        "spec": {
            "nprocPerNode": str(settings.processes),
            "runPolicy": {
                # Workers that hang would keep their GPUs; those that ended keep their logs until the ttl.
                "cleanPodPolicy": "Running",
                "backoffLimit": settings.backoff_limit,
                "activeDeadlineSeconds": settings.time_limit,
                "ttlSecondsAfterFinished": settings.ttl,
            },
            "pytorchReplicaSpecs": {
                role: {"replicas": count, "restartPolicy": "OnFailure", "template": copy.deepcopy(template)}
                for role, count in roles.items()
            },
        },
    }


def owner_reference(launcher: Launcher) -> dict[str, Any]:
    """Return what lets Kubernetes remove the job when the launching pod is removed, as with its pipeline run."""
    return {"apiVersion": "v1", "kind": "Pod", "name": launcher.pod, "uid": launcher.uid, "controller": False}


def _labels(work: Work, launcher: Launcher) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "soco",
        "app.kubernetes.io/component": work.stage,
        RESULT_LABEL: work.fingerprint,
        **({RUN_LABEL: launcher.run} if launcher.run else {}),
    }


def _pod(settings: JobSettings, work: Work) -> dict[str, Any]:
    gpus = {settings.gpu_resource: str(settings.gpus_per_node)} if settings.gpus_per_node else {}
    scratch = {"sizeLimit": settings.scratch_size} if settings.scratch_size else {}
    volumes: dict[str, dict[str, Any]] = {
        "shm": {"emptyDir": {"medium": "Memory", "sizeLimit": settings.shm_size}},
        "tmp": {"emptyDir": scratch},
    }
    mounts = {"shm": "/dev/shm", "tmp": TEMPORARY}
    for number, (claim, path) in enumerate(settings.claims.items()):
        volumes[f"claim-{number}"] = {"persistentVolumeClaim": {"claimName": claim}}
        mounts[f"claim-{number}"] = path
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        # No rendezvous here: the operator says it all in PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and so on.
        "command": ["torchrun", "--max-restarts", str(settings.max_restarts), "-m", "soco_core.cli", work.stage],
        "args": list(work.arguments),
        "env": [{"name": key, "value": value} for key, value in {**work.environment, **settings.env}.items()],
        "resources": {
            "requests": {"cpu": settings.cpu, "memory": settings.memory, **gpus},
            "limits": {"memory": settings.memory, **gpus},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    if settings.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in settings.secrets]
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.stop_grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # A claim of a million images is not gone through at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
    }
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [
            {key: value for key, value in each.model_dump().items() if value not in ("", None)}
            for each in settings.tolerations
        ]
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    return pod

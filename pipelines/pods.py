"""What a stage's pod is given on a cluster: resources, volumes, secrets, nodes, time, retries (by kfp-kubernetes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.site import PodSettings, Stages

Kind = Literal["cpu", "shards", "gpu", "pretrain", "launch"]
"""``shards``: whoever adds the task gives it cores, memory and retries. ``launch``: starts a PyTorchJob and waits."""
BACKOFF = "60s"
"""Before the first retry, twice as long before each later one: as long as the lock that a dead pod leaves on S3."""
LAUNCHER = PodSettings(cpus="500m", memory="2Gi")
SHARED_MEMORY = "/dev/shm"
LABEL = {"app.kubernetes.io/part-of": "soco"}


@dataclass(frozen=True)
class Pods:
    """What a site gives the pods; settled when a pipeline is compiled."""

    stages: Stages = field(default_factory=Stages)
    claims: Mapping[str, str] = field(default_factory=dict)
    """Volume claim -> where it is mounted."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Secret -> its key -> environment variable."""
    environment: Mapping[str, str] = field(default_factory=dict)
    pull_secrets: Sequence[str] = ()
    launch_hours: float = 0.0
    """How long the step that launches a PyTorchJob may take; 0: as long as pretraining in its own pod."""

    def prepare(self, task: Any, kind: Kind) -> Any:
        """Give the pod of a task what its kind needs; return the task."""
        settings = self._settings(kind)
        _volumes_and_secrets(self, task)
        _place(task, settings)
        if kind != "shards":
            task.set_cpu_request(settings.cpus).set_cpu_limit(settings.cpus)
            task.set_memory_request(settings.memory).set_memory_limit(settings.memory)
            if settings.retries:
                task.set_retry(settings.retries, backoff_duration=BACKOFF)
        if settings.gpus:
            task.set_accelerator_type(settings.gpu_type).set_accelerator_limit(settings.gpus)
        return task

    def _settings(self, kind: Kind) -> PodSettings:
        if kind != "launch":
            settings: PodSettings = getattr(self.stages, kind)
            return settings
        pretrain = self.stages.pretrain
        hours = self.launch_hours or pretrain.timeout_hours
        return LAUNCHER.model_copy(update={"retries": pretrain.retries, "timeout_hours": hours})


def _volumes_and_secrets(pods: Pods, task: Any) -> None:
    from kfp import kubernetes

    for name, place in pods.claims.items():
        kubernetes.mount_pvc(task, pvc_name=name, mount_path=place)
    for name, variables in pods.secrets.items():
        kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=dict(variables))
    for name, value in pods.environment.items():
        task.set_env_variable(name, value)
    if pods.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(pods.pull_secrets))
    for name, value in LABEL.items():
        kubernetes.add_pod_label(task, name, value)


def _place(task: Any, settings: PodSettings) -> None:
    from kfp import kubernetes

    if settings.shared_memory:
        kubernetes.empty_dir_mount(
            task, "shared-memory", SHARED_MEMORY, medium="Memory", size_limit=settings.shared_memory
        )
    for name, value in settings.node_selector.items():
        kubernetes.add_node_selector(task, name, value)
    for each in settings.tolerations:
        kubernetes.add_toleration(
            task,
            key=each.key or None,
            operator=each.operator,
            value=each.value or None,
            effect=each.effect or None,
            toleration_seconds=each.tolerationSeconds,
        )
    kubernetes.set_timeout(task, round(settings.timeout_hours * 3600))

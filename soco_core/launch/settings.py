"""How a stage becomes a PyTorchJob: nodes, image, claims, limits. By default it runs in its own process.

A pipeline hands the settings on as one JSON text, the component's parameter `job`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from soco_core.config_fields import PositiveInt, Section
from soco_core.errors import InputError

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Of an object of Kubernetes."""
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i|[MGTPE])?$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SECRET_WORDS = ("SECRET", "PASSWORD", "TOKEN", "ACCESS_KEY", "CREDENTIAL")
TEMPORARY = "/tmp"
"""All that the image writes without being asked for lies there."""
RESERVED_PATHS = ("/", "/dev/shm", TEMPORARY)


class Toleration(Section):
    """A taint of nodes that the pods put up with, as Kubernetes writes it."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    tolerationSeconds: int | None = None  # noqa: N815 (Kubernetes' own name)


class JobSettings(Section):
    """The settings of a PyTorchJob; only `nodes` must be given, and `image` outside a pod of the cluster."""

    nodes: Annotated[int, Field(ge=0)] = 0
    """Pods, a node's share each; 0: no job, the stage runs in its own process."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 8
    """GPUs of each pod; 0: it computes on the CPU."""
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    processes_per_node: Annotated[int, Field(ge=0)] = 0
    """Processes that `torchrun` starts in each pod; 0: one a GPU, or one without a GPU."""
    image: str = ""
    """Container image; empty: that of the pod which launches the job."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with which the image is pulled."""
    namespace: Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")] = ""
    """Where the job runs; empty: the launching pod's own, or that of the kubeconfig's context."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that will do."""
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),)
    """Taints of nodes that are put up with."""
    claims: dict[Name, str] = Field(default_factory=dict)
    """Volume claims by name, each with the path at which all pods see it; of several nodes they are ReadWriteMany."""
    cpu: Quantity = "40"
    """Cores of each pod, as request."""
    memory: Quantity = "240Gi"
    """Memory of each pod, as request and limit; what lies in /dev/shm counts."""
    shm_size: Quantity = "64Gi"
    """Largest size of /dev/shm, through which the loader's processes hand over images."""
    scratch_size: Quantity | Literal[""] = ""
    """Largest size of /tmp, where copies of S3 objects lie; empty: no limit but the node's."""
    secrets: tuple[Name, ...] = ()
    """Secrets whose entries become environment variables: keys of S3, MLflow's user and password."""
    env: dict[VariableName, str] = Field(default_factory=lambda: {"NCCL_DEBUG": "WARN"})
    """Further environment variables, such as NCCL's; never secrets."""
    queue: Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")] = ""
    """Local queue of Kueue; empty: the job does not queue."""
    priority_class: Name | Literal[""] = ""
    """Priority class of the pods."""
    time_limit: PositiveInt = 864_000
    """Seconds after which Kubernetes ends the job, whatever became of who launched it; 10 days."""
    pending_limit: PositiveInt = 3600
    """Seconds that pods may wait for a node or an image before the job is given up."""
    queue_limit: PositiveInt = 86_400
    """Seconds that the job may be suspended (in Kueue's queue) before it is given up."""
    ttl: Annotated[int, Field(ge=0)] = 259_200
    """Seconds that an ended job and its pods are kept; 3 days."""
    backoff_limit: Annotated[int, Field(ge=0)] = 20
    """Restarts of containers, of all pods together, that the job survives; a lost pod costs the others one each."""
    max_restarts: Annotated[int, Field(ge=0)] = 0
    """Restarts by `torchrun` inside a pod. On several nodes leave it at 0: after a lost pod the nodes would count
    differently and wait for each other. Kubernetes restarts containers anyway, up to `backoff_limit`."""
    stop_grace: PositiveInt = 120
    """Seconds between SIGTERM and SIGKILL: a step and a checkpoint must fit into them."""

    @classmethod
    def from_json(cls, text: str) -> JobSettings:
        """Read the parameter `job`: a JSON object; empty text means no job.

        Raises:
            InputError: not JSON, an unknown key, a wrong value; one line that names each.
        """
        try:
            return cls.model_validate_json(text) if text.strip() else cls()
        except ValidationError as error:
            raise InputError(f"parameter `job`: {'; '.join(map(_explain, error.errors()))}") from error

    @property
    def processes(self) -> int:
        """Processes in each pod, at least 1."""
        return self.processes_per_node or max(1, self.gpus_per_node)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, path in self.claims.items():
            if not path.startswith("/") or path.rstrip("/") in {"", *RESERVED_PATHS}:
                raise ValueError(f"claims: {name} is mounted at {path!r}; give another path, such as /data")
        if len(set(self.claims.values())) < len(self.claims):
            raise ValueError("claims: two are mounted at the same path; give each its own")
        for name in self.env:
            if any(word in name.upper() for word in SECRET_WORDS):
                raise ValueError(f"env: {name} looks like a secret; name a Kubernetes secret that holds it in secrets")
        if self.gpus_per_node and self.processes > self.gpus_per_node:
            raise ValueError(
                f"processes_per_node is {self.processes_per_node}, more than gpus_per_node ({self.gpus_per_node}); "
                "each process takes a GPU"
            )
        return self


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "json_invalid":
        return f'not JSON ({error["ctx"]["error"]}); write it as {{"nodes": 2}}'
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, JobSettings.model_fields, n=1)
        return f"{path}: unknown key" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "value_error" else f"{path or 'it'}: {message} (got {error['input']!r})"

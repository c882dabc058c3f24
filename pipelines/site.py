"""A cluster's own settings: ``pipelines/defaults.yaml``, or the file that ``--defaults`` names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipelines.kubernetes_values import (
    Cpus,
    KubernetesName,
    Memory,
    MountPath,
    Variable,
    bytes_of,
    refuse_secret_value,
)
from soco_core.config_fields import PositiveFloat, Section
from soco_core.errors import InputError
from soco_core.launch.settings import JobSettings, Toleration
from soco_core.recipes import parse_sections, validate
from soco_core.storage import read_text

FILE = Path(__file__).with_name("defaults.yaml")
ENVIRONMENT = "SOCO_PIPELINE_DEFAULTS"
"""Environment variable that names another file."""


class PodSettings(Section):
    """What the pod of one kind of stage is given."""

    cpus: Cpus = "2"
    """Cores that it asks for, and may use."""
    memory: Memory = "8Gi"
    """Memory that it asks for, and may use."""
    gpus: int = Field(default=0, ge=0)
    gpu_type: str = "nvidia.com/gpu"
    """Kubernetes' name of a GPU as a resource."""
    shared_memory: Memory | Literal[""] = ""
    """Size of /dev/shm, through which processes hand images over; it counts as memory. Empty: the node's 64 MB."""
    retries: int = Field(default=2, ge=0)
    """How often it is tried again when it fails; each time it goes on from what is kept."""
    timeout_hours: PositiveFloat = 12.0
    """How long one try may take."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that it may run on."""
    tolerations: tuple[Toleration, ...] = ()

    @model_validator(mode="after")
    def _shared_memory_is_a_part(self) -> PodSettings:
        if self.shared_memory and bytes_of(self.shared_memory) >= bytes_of(self.memory):
            raise ValueError(f"shared_memory {self.shared_memory} is part of memory, {self.memory}; make it smaller")
        return self


class ShardSettings(PodSettings):
    """The same for a shard of the proposals."""

    cpus: Cpus = "4"
    retries: int = Field(default=3, ge=0)
    timeout_hours: PositiveFloat = 24.0


class TrainingSettings(PodSettings):
    """The same for a stage that trains."""

    cpus: Cpus = "8"
    memory: Memory = "64Gi"
    gpus: int = Field(default=1, ge=0)
    shared_memory: Memory | Literal[""] = "16Gi"
    retries: int = Field(default=3, ge=0)
    timeout_hours: PositiveFloat = 168.0
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),)


class PretrainingSettings(TrainingSettings):
    """The same for the longest stage."""

    timeout_hours: PositiveFloat = 336.0


class Stages(Section):
    """The kinds of stages."""

    cpu: PodSettings = PodSettings()
    """Those that only read and write: plan, import, convert, the tables and the report."""
    shards: ShardSettings = ShardSettings()
    """Proposals. The plan and the merge ask for memory as they need it."""
    gpu: TrainingSettings = TrainingSettings()
    """Finetuning and linear evaluation."""
    pretrain: PretrainingSettings = PretrainingSettings()
    """Pretraining in the step's own pod; of the step that launches a PyTorchJob, retries and time."""

    @field_validator("cpu", "shards")
    @classmethod
    def _without_gpu(cls, value: PodSettings) -> PodSettings:
        if value.gpus:
            raise ValueError(f"gpus: {value.gpus}, but these stages use none; leave it out")
        return value


class Site(Section):
    """Everything that is a site's and not a run's. What is given on the command line goes before it."""

    host: str = ""
    namespace: str = ""
    experiment: str = "soco"
    service_account: KubernetesName | Literal[""] = ""
    image: str = ""
    gpu_image: str = ""
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    output: str = ""
    tracking_uri: str = ""
    claims: dict[KubernetesName, MountPath] = Field(default_factory=dict)
    """Volume claim -> where every stage mounts it."""
    secrets: dict[KubernetesName, dict[str, Variable]] = Field(default_factory=dict)
    """Secret -> its key -> environment variable of every stage."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Environment of every stage; nothing secret."""
    job: JobSettings = JobSettings()
    """The PyTorchJob that pretrains. Image, claims, secrets and environment are those of all stages, unless it says
    otherwise; with 0 nodes the step's own pod pretrains."""
    stages: Stages = Stages()

    @field_validator("environment")
    @classmethod
    def _nothing_secret(cls, values: dict[str, str]) -> dict[str, str]:
        for name in values:
            refuse_secret_value(name)
        return values

    @field_validator("claims")
    @classmethod
    def _places_differ(cls, values: dict[str, str]) -> dict[str, str]:
        places = list(values.values())
        twice = next((place for place in places if places.count(place) > 1), None)
        if twice:
            raise ValueError(f"two claims are mounted at {twice}; give each a place of its own")
        return values


def load_site(path: str | Path | None = None) -> Site:
    """Read a site's settings.

    Args:
        path: of the file, or None for `pipelines/defaults.yaml`, which may be missing.

    Raises:
        InputError: it is missing or not readable.
        RecipeError: one line with each unknown key and wrong value.
    """
    if path is None and not FILE.exists():
        return Site()
    file = str(path or FILE)
    try:
        text = read_text(file)
    except InputError as error:
        raise InputError(f"--defaults: {error}") from error
    return validate(Site, parse_sections(text, file, "it"), file)

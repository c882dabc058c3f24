"""What a cluster gives a pipeline: the command line first, then the environment, then the site's file."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace

from pipelines.images import default_image, read_images
from pipelines.pods import Pods
from pipelines.proposals import ShardTasks
from pipelines.request import shape_of
from pipelines.shape import Shape
from pipelines.site import ENVIRONMENT, PodSettings, Site, load_site
from pipelines.tasks import Tasks
from soco_core.errors import InputError
from soco_core.launch.settings import JobSettings
from soco_core.recipes import validate

IMAGE = "SOCO_IMAGE"
OUTPUT = "SOCO_OUTPUT"


@dataclass(frozen=True)
class Cluster:
    """Everything that is settled about a cluster when a pipeline is compiled or submitted."""

    tasks: Tasks
    shards: ShardTasks
    pods: Pods
    output: str
    """Root of all results; empty: not said."""
    tracking_uri: str
    namespace: str
    """Of the run, for an endpoint with several users; empty: not said."""
    experiment: str
    service_account: str
    job: str
    """The PyTorchJob's settings as JSON; empty: the step's own pod pretrains."""
    site: Site

    def shape(self, options: argparse.Namespace) -> Shape:
        """Return what is settled of the pipeline."""
        return shape_of(options, self.tasks, self.shards, self.job)

    @property
    def arguments(self) -> dict[str, str]:
        """Values of the pipeline's parameters that are the cluster's."""
        return {"output": self.output, "tracking_uri": self.tracking_uri, "job": self.job}


def settle(options: argparse.Namespace) -> Cluster:
    """Put together what options, environment and the site's file say; the endpoint is left to pipelines/access.py.

    Raises:
        InputError: the site's file cannot be read, or docker/build.py's record of images.
        RecipeError: an unknown key or a wrong value in it.
    """
    site = load_site(options.defaults or os.environ.get(ENVIRONMENT))
    pods = Pods(
        stages=site.stages,
        claims={**site.claims, **options.claims},
        secrets={**site.secrets, **options.secrets},
        environment={**site.environment, **options.environment},
        pull_secrets=options.pull_secret or site.image_pull_secrets,
    )
    image, gpu_image = _images(options, site)
    job = _job(options, site.job, pods, gpu_image or image)
    if job:
        pods = replace(pods, launch_hours=_longest(job))
    return Cluster(
        tasks=Tasks(image, gpu_image, pods),
        shards=shard_tasks(options, site.stages.shards),
        pods=pods,
        output=options.output or os.environ.get(OUTPUT) or site.output,
        tracking_uri=options.tracking_uri or site.tracking_uri,
        namespace=options.namespace or os.environ.get("KFP_NAMESPACE") or site.namespace,
        experiment=options.experiment or os.environ.get("KFP_EXPERIMENT") or site.experiment,
        service_account=options.service_account or site.service_account,
        job=job.model_dump_json(exclude_defaults=True) if job else "",
        site=site,
    )


def shard_tasks(options: argparse.Namespace, site: PodSettings, **more: int) -> ShardTasks:
    """Return how the proposals' shards run."""
    return ShardTasks(
        parallel=options.parallel_shards,
        cpus=options.shard_cpus or site.cpus,
        memory=options.shard_memory or site.memory,
        retries=site.retries if options.shard_retries is None else options.shard_retries,
        **more,
    )


def local_image(options: argparse.Namespace) -> str:
    """Return the image of all stages on this machine, where a site's registry plays no part."""
    return options.image or os.environ.get(IMAGE) or default_image()


def _images(options: argparse.Namespace, site: Site) -> tuple[str, str]:
    """Return the image of the stages, and that of those that train, which is empty if it is the same."""
    given = options.image or os.environ.get(IMAGE) or site.image
    image = given or default_image()
    gpu_image = options.gpu_image or ("" if options.image else site.gpu_image)
    if not gpu_image and not given and "cuda" in read_images():
        gpu_image = default_image("cuda")
    return image, gpu_image


def _job(options: argparse.Namespace, site: JobSettings, pods: Pods, image: str) -> JobSettings | None:
    """Return the settings of the PyTorchJob that pretrains; None: the step's own pod does."""
    given = {name: value for name in ("nodes", "gpus_per_node") if (value := getattr(options, name)) is not None}
    if not given.get("nodes", site.nodes):
        return None
    renamed = {key: variable for keys in pods.secrets.values() for key, variable in keys.items() if key != variable}
    if renamed and "secrets" not in site.model_fields_set:
        key, variable = next(iter(renamed.items()))
        raise InputError(
            f"--secret {key}={variable}: the pods of a PyTorchJob get a secret's keys under their own names; call the "
            f"key {variable}, or name the job's secrets in the defaults' file (job.secrets)"
        )
    of_all = {
        "image": image,
        "claims": dict(pods.claims),
        "secrets": tuple(pods.secrets),
        "image_pull_secrets": tuple(pods.pull_secrets),
    }
    own = {name: getattr(site, name) for name in site.model_fields_set}
    env = {**pods.environment, **site.env, **options.environment}
    return validate(JobSettings, {**of_all, **own, **given, "env": env}, "the PyTorchJob")


def _longest(job: JobSettings) -> float:
    """Return the hours after which a job has ended for certain, and an hour for who waits to say so."""
    return (job.queue_limit + job.pending_limit + job.time_limit) / 3600 + 1

"""The pretraining of a pipeline: in processes of this machine, or in a PyTorchJob that is launched from it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError, SocoError
from soco_core.launch import JobSettings, Training, Waits, Work, hand_over, run_job, train_here
from soco_core.pretrain import stage
from soco_core.tracking import TrackingContext

PASSED_ON = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("MLFLOW_S3_ENDPOINT_URL", "SOCO_DATA"),
)
"""Environment variables without secrets that the pods get from this process."""


def pretrain(
    recipe: Recipe,
    *,
    proposals: str,
    images: str,
    output: str,
    tracking: TrackingContext | None = None,
    job: JobSettings | None = None,
    waits: Waits | None = None,
) -> ResultDirectory:
    """Pretrain as :func:`soco_core.pretrain.stage.pretrain` does, where `job` says.

    A result that is whole launches nothing. Of a PyTorchJob the pods write the result; this process only watches.

    Args:
        recipe: the resolved recipe.
        proposals: result directory of the proposals.
        images: image set to pretrain on.
        output: root of all results; for a job on S3, or below a claim that all pods mount at the same path.
        tracking: where to track, or None.
        job: settings of the job; None, or without nodes: the training runs here (:func:`soco_core.launch.train_here`).
        waits: how long to wait for the cluster; by default that of :class:`soco_core.launch.Waits`.

    Raises:
        InputError: a path is on none of the job's claims, or as the stage raises it.
        InterruptedStageError: stopped by a signal; a job is deleted, its last checkpoint kept.
        SocoError: the job or the training failed, or ended without a result.
    """

    def train() -> ResultDirectory:
        return stage.pretrain(recipe, proposals=proposals, images=images, output=output, tracking=tracking)

    def locate() -> ResultDirectory:
        return stage.locate_pretraining(recipe, proposals, output)

    arguments = {"--proposals": proposals, "--images": images, "--output": output}
    if job is None or not job.nodes:
        batch_size = recipe.pretrain.batch_size
        return train_here(
            Training("pretrain", recipe, arguments, train, locate, lambda count: count <= batch_size, tracking)
        )
    result = locate()
    if result.done is not None:
        return train()
    for name, place in {"output": output, "proposals": proposals, "images": images}.items():
        _check_shared(name, place, job)
    arguments = {"--recipe": hand_over(recipe, result), **arguments}
    environment = {name: value for name in PASSED_ON if (value := os.environ.get(name)) and "@" not in value}
    if tracking is not None:
        environment |= tracking.to_environment()
    work = Work(
        stage="pretrain",
        result=result.uri,
        fingerprint=result.fingerprint,
        arguments=tuple(part for pair in arguments.items() for part in pair),
        environment=environment,
    )
    run_job(job, work, waits)
    result = locate()
    if result.done is None:
        raise SocoError(
            f"the PyTorchJob has succeeded, but {result.uri} is not a finished result here; let this step and the "
            "job's pods see the same output: S3, or the same claim at the same path"
        )
    say(f"pretrained by the PyTorchJob: {result.uri}")
    return result


def _check_shared(name: str, place: str, job: JobSettings) -> None:
    """Refuse a path that the pods would look for in vain."""
    if storage.is_s3(place):
        return
    path = PurePosixPath(place)
    is_mounted = any(path.is_relative_to(mount) for mount in job.claims.values())
    if not is_mounted or ".." in path.parts:
        mounts = ", ".join(job.claims.values()) or "none is mounted"
        raise InputError(
            f"{name} {place}: on none of the claims that the PyTorchJob's pods mount ({mounts}); add its claim to "
            "`claims` of the parameter `job`, with the absolute path at which this step sees it, or give an s3:// URI"
        )

"""Who launches a job: the pod of a pipeline's step, or somebody's machine."""

from __future__ import annotations

import os
import platform
from typing import Any

from soco_core.launch.cluster import Cluster, in_cluster
from soco_core.launch.job import Launcher

RUN_OF_POD = "pipeline/runid"
"""Label that Kubeflow Pipelines gives its pods."""
MAIN = "main"
"""What Argo calls the container that runs a step."""


def own_pod(cluster: Cluster) -> dict[str, Any] | None:
    """Return the pod that this process runs in, if it is one of the same namespace and may be read."""
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("POD_NAME") or (platform.node() if in_cluster() else "")
    return cluster.pod(name) if name else None


def launcher(own: dict[str, Any] | None) -> Launcher:
    """Return who launches, by its pod if that is known."""
    if own is None:
        return Launcher(name=f"{platform.node()}/{os.getpid()}")
    metadata = own["metadata"]
    run = metadata.get("labels", {}).get(RUN_OF_POD, "")
    return Launcher(name=metadata["name"], run=run, pod=metadata["name"], uid=metadata["uid"])


def own_image(own: dict[str, Any] | None) -> str:
    """Return the image of the launching pod; empty if it is not known."""
    containers = {each["name"]: each.get("image", "") for each in own["spec"]["containers"]} if own else {}
    return str(containers.get(MAIN) or (next(iter(containers.values())) if len(containers) == 1 else ""))

"""``--submit``: the pipeline is compiled, and a run of it started on a Kubeflow Pipelines endpoint."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pipelines.cluster import Cluster
from pipelines.request import arguments_of
from pipelines.submit import check_endpoint, endpoint, submit
from soco_core.config import Recipe
from soco_core.errors import InputError


def submit_run(build: Callable[..., Any], recipe: Recipe, options: argparse.Namespace, cluster: Cluster) -> int:
    """Start a run; return the exit status."""
    address = endpoint(options.host or cluster.site.host)
    check_endpoint(address)
    if not cluster.output:
        raise InputError("--submit needs --output: an s3:// URI, or a path that every pod of the run mounts")
    link = submit(
        build(cluster.shape(options), {}),
        arguments_of(options, recipe.to_yaml(), **cluster.arguments),
        address=address,
        namespace=cluster.namespace,
        experiment=cluster.experiment,
        name=recipe.name,
    )
    print(f"submitted: {link}")
    return 0

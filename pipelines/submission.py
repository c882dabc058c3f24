"""``--submit``: everything is looked for, then a run is started on a Kubeflow Pipelines endpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from pipelines.access import Access, find_access
from pipelines.cluster import Cluster
from pipelines.preflight import check
from pipelines.request import arguments_of
from pipelines.submit import submit, wait
from soco_core.config import Recipe
from soco_core.engine.component import EXIT_INPUT
from soco_core.errors import SocoError


def submit_run(build: Callable[..., Any], recipe: Recipe, options: argparse.Namespace, cluster: Cluster) -> int:
    """Start a run, and wait for it if that is asked for; return the exit status.

    Raises:
        SocoError: the endpoint refuses the run.
    """
    access = _access(options, cluster)
    found = check(recipe, options, cluster, access)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for line in found.missing:
        print(f"error: {line}", file=sys.stderr)
    if found.missing or isinstance(access, SocoError):
        return EXIT_INPUT
    run = submit(
        build(cluster.shape(options), {}),
        arguments_of(options, recipe.to_yaml(), **cluster.arguments),
        access=access,
        namespace=cluster.namespace,
        experiment=cluster.experiment,
        name=recipe.name,
        service_account=cluster.service_account,
    )
    print(f"run: {run}")
    print(f"submitted: {access.link(run)}", flush=True)
    return wait(access, run) if options.wait else 0


def _access(options: argparse.Namespace, cluster: Cluster) -> Access | SocoError:
    """Return the endpoint, or why there is none: a line among others."""
    try:
        return find_access(options, cluster.site.host)
    except SocoError as error:
        return error

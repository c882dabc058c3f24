"""What a run on a cluster would miss: everything that is wrong is found before anything is sent."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from components import IMAGE
from pipelines.access import SYSTEM_NAMESPACE, Access
from pipelines.benchmarks import IMAGENET
from pipelines.cluster import IMAGE as VARIABLE
from pipelines.cluster import Cluster
from pipelines.cluster_objects import Objects, look_for
from pipelines.endpoint import check_endpoint, too_old
from pipelines.registry import look_up
from soco_core.benchmarks.table import named_benchmark
from soco_core.config import Recipe
from soco_core.datasets.open_set import ENVIRONMENT
from soco_core.datasets.published import NAMED, Root, named
from soco_core.errors import InputError, SocoError, one_line
from soco_core.images.subset import is_file
from soco_core.storage import is_s3
from soco_core.tracking import check_tracking_uri


@dataclass
class Findings:
    """What was found, each in one line."""

    missing: list[str] = field(default_factory=list)
    """Nothing is sent while there is any."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked, or may go wrong later."""


def check(recipe: Recipe, options: argparse.Namespace, cluster: Cluster, access: Access | SocoError) -> Findings:
    """Look for everything that a run needs.

    Args:
        recipe: of the run.
        options: of the command, checked.
        cluster: what is settled about it.
        access: the endpoint, or why there is none.
    """
    found = Findings()
    _check_endpoint(access, cluster, found)
    found.missing += _places(recipe, options, cluster)
    found.missing += _data_sets(recipe, options, cluster)
    try:
        check_tracking_uri(cluster.tracking_uri)
    except InputError as error:
        found.missing.append(one_line(error))
    said = bool(options.image or os.environ.get(VARIABLE) or cluster.site.image)
    _check_images(cluster, said, found)
    _check_objects(cluster, options.context or "", found)
    return found


def _check_endpoint(access: Access | SocoError, cluster: Cluster, found: Findings) -> None:
    try:
        if isinstance(access, SocoError):
            raise access
        health = check_endpoint(access)
    except SocoError as error:
        found.missing.append(one_line(error))
        return
    if health.get("multi_user") is True and not cluster.namespace:
        found.missing.append(f"namespace: {access.name} has several users; give yours by --namespace")
    if old := too_old(health):
        found.notes.append(
            f"{access.name}: Kubeflow Pipelines {old}, but the loop over shards and retries need 2.14 or later"
        )


def _places(recipe: Recipe, options: argparse.Namespace, cluster: Cluster) -> Iterator[str]:
    """Yield what lies neither on S3 nor on a claim."""
    if not cluster.output:
        yield "output: none is given; give --output s3://..., or a path on a claim that every pod mounts"
    coco = options.coco or ""
    places = {
        "output": cluster.output,
        "images": options.images or "",
        "coco": "" if any(item.name == coco for item in NAMED) else coco,
        "supervised": options.supervised or "",
        **{f"compare {each.row}": each.weights for each in options.compare},
        "linear-images": options.linear_images if options.linear_images != IMAGENET else "",
        "images.subset": recipe.images.subset if is_file(recipe.images.subset) else "",
        "proposals.boxes_file": recipe.proposals.boxes_file,
        **{f"datasets.{name}": place for name, place in recipe.datasets},
    }
    for name, place in places.items():
        if place and not is_s3(place) and not _on_a_claim(place, cluster.pods.claims):
            yield f"{name} {place}: no pod sees it; give an s3:// URI, or mount its claim by --claim NAME:PATH"


def _on_a_claim(place: str, claims: Mapping[str, str]) -> bool:
    path = PurePosixPath(place)
    return ".." not in path.parts and any(path.is_relative_to(mounted) for mounted in claims.values())


def _data_sets(recipe: Recipe, options: argparse.Namespace, cluster: Cluster) -> Iterator[str]:
    """Yield the data sets that are named, and of which nobody says where they lie."""
    if ENVIRONMENT in cluster.pods.environment:
        return
    wanted: dict[Root, str] = {}
    coco = next((item for item in NAMED if item.name == options.coco), None)
    if coco:
        wanted[coco.root] = f"--coco {coco.name}"
    for name in options.benchmarks:
        benchmark = named_benchmark(name)
        if benchmark.linear and (options.linear_images or IMAGENET) == IMAGENET:
            wanted.setdefault(named(IMAGENET).root, f"benchmark {name}")
        elif not benchmark.linear and options.images and not options.coco:
            wanted.setdefault(named(benchmark.data).root, f"benchmark {name}")
    for root, asked in wanted.items():
        if not getattr(recipe.datasets, root):
            yield (
                f"data set {root} ({asked}): nobody says where it lies; give --data DIR, --set datasets.{root}=DIR, or "
                f"--env {ENVIRONMENT}=DIR"
            )


def _check_images(cluster: Cluster, said: bool, found: Findings) -> None:
    for image in dict.fromkeys(filter(None, (cluster.tasks.image, cluster.tasks.gpu_image))):
        # Someone who names it has put it onto the nodes.
        if image == IMAGE and not said:
            found.missing.append(
                f"image {image}: no registry has it; build and push it (python docker/build.py --target cuda --tag "
                "REGISTRY/soco:VERSION --push), or give --image"
            )
            continue
        state, why = look_up(image)
        if state == "missing":
            found.missing.append(f"image {image}: its registry has none; push it, or give another one by --image")
        elif state is None:
            found.notes.append(f"image {image}: not checked ({why})")


def _check_objects(cluster: Cluster, context: str, found: Findings) -> None:
    objects = Objects(
        claims=tuple(cluster.pods.claims),
        secrets=(*cluster.pods.secrets, *cluster.pods.pull_secrets),
        service_account=cluster.service_account,
    )
    if objects.empty:
        return
    namespace = cluster.namespace or SYSTEM_NAMESPACE
    missing, unchecked = look_for(objects, namespace, context)
    found.missing += missing
    found.notes += unchecked

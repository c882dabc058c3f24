"""`soco propose`: from a folder of images to its object proposals, in one go or in shards."""

from __future__ import annotations

from typing import Any

from soco_core.artifacts.proposals import CONTRACT, intact_manifest
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.images import ImageSet, open_image_set
from soco_core.tracking import Tracker, TrackingContext


def propose(
    recipe: Recipe, *, images: str, output: str, shards: int = 1, tracking: TrackingContext | None = None
) -> ResultDirectory:
    """Find the object proposals of an image set (paper 3.2, A): all shards, then their merge.

    The result is the same, to the byte, whatever the number of shards and processes, and however often
    the work was interrupted.

    Args:
        recipe: the resolved recipe; ``runtime.workers`` processes work side by side.
        images: folder of images, at any depth.
        output: root of all results, a local directory or an S3 URI.
        shards: pieces of work; each is held in memory while it is done (about 1 kB an image).
        tracking: where to track, or None.

    Returns:
        A result with ``manifest.json``, ``tables/``, ``kept.arrow`` and ``figures/``.

    Raises:
        InputError: the folder is missing or empty, or none of its images can be decoded.
        ResultLockedError: another process is writing the result or one of the shards.
        InterruptedStageError: stopped by a signal, with the finished images kept.
    """
    image_set, result = _located(recipe, images, output, shards)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.proposals.merge import merge

        if intact_manifest(result.path) is None:
            _run(result, recipe, image_set, range(shards), shards)
        return merge(result, recipe, image_set, shards)

    return complete(result, recipe, tracking, compute)


def propose_shard(recipe: Recipe, *, images: str, output: str, index: int, count: int) -> str:
    """Do one of `count` shards; they may run at the same time, on different machines.

    Args:
        recipe: the resolved recipe.
        images: folder of images.
        output: root of all results.
        index: the shard, from 0.
        count: number of shards.

    Returns:
        Path or URI of the result directory, which :func:`merge_shards` completes.

    Raises:
        InputError: as :func:`propose` does, or there is no such shard.
        ResultLockedError: another process works on this shard.
        InterruptedStageError: stopped by a signal, with the finished images kept.
    """
    image_set, result = _located(recipe, images, output, count)
    if not 0 <= index < count:
        raise InputError(f"shard {index} of {count}: the index must be from 0 to {count - 1}")
    if result.done is None and intact_manifest(result.path) is None:
        _run(result, recipe, image_set, range(index, index + 1), count)
    else:
        say("proposals: already done, nothing to compute")
    return result.uri


def merge_shards(
    recipe: Recipe, *, images: str, output: str, count: int, tracking: TrackingContext | None = None
) -> ResultDirectory:
    """Complete the result of `count` finished shards; see :func:`propose`.

    Raises:
        InputError: a shard is missing or damaged, or no image can be decoded.
    """
    image_set, result = _located(recipe, images, output, count)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.proposals.merge import merge

        return merge(result, recipe, image_set, count)

    return complete(result, recipe, tracking, compute)


def _located(recipe: Recipe, images: str, output: str, count: int) -> tuple[ImageSet, ResultDirectory]:
    if count < 1:
        raise InputError(f"shards: {count} is not a number of shards; give 1 or more")
    image_set = open_image_set(images)
    # How the fingerprint was made is part of it, so `images` of the recipe need not be named again.
    inputs = {"images": image_set.fingerprint(recipe.images.fingerprint)}
    return image_set, locate(output, "proposals", CONTRACT, recipe, ("proposals",), inputs)


def _run(result: ResultDirectory, recipe: Recipe, image_set: ImageSet, indices: range, count: int) -> None:
    from soco_core.engine.interrupt import InterruptGuard
    from soco_core.engine.progress import Progress
    from soco_core.proposals.shards import cut, run_shard
    from soco_core.proposals.workers import Workers

    shards = cut(result, image_set.ids, count)[indices.start : indices.stop]
    for shard in shards:
        shard.fetch()
    images_done = sum(shard.images_done() for shard in shards)
    total = sum(len(shard.ids) for shard in shards)
    with (
        InterruptGuard() as guard,
        Progress("proposals", total, images_done, unit="images") as progress,
        Workers(image_set, recipe.proposals, recipe.runtime.workers) as workers,
    ):
        for shard in shards:
            run_shard(shard, workers, progress, guard)

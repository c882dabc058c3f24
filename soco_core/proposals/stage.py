"""`soco propose`: from an image set to its object proposals, in one go or in shards."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import Any

from soco_core.artifacts.disk import disk_errors
from soco_core.artifacts.proposals import intact_manifest
from soco_core.artifacts.result import ResultDirectory
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.proposals.plan import Work, list_work, plan_uri, planned_work, write_plan
from soco_core.tracking import Tracker, TrackingContext


def propose(
    recipe: Recipe, *, images: str, output: str, shards: int = 1, tracking: TrackingContext | None = None
) -> ResultDirectory:
    """Find the object proposals of an image set (paper 3.2, A): all shards, then their merge.

    The result is the same, to the byte, whatever the number of shards and processes, and however often
    the work was interrupted.

    Args:
        recipe: the resolved recipe; ``runtime.search_workers`` processes work side by side.
        images: a folder of images at any depth, a COCO or VOC data set, or a pack; a path or an S3 URI.
        output: root of all results, a local directory or an S3 URI.
        shards: pieces of work; each is held in memory while it is done (about 1 kB an image).
        tracking: where to track, or None.

    Returns:
        A result with ``manifest.json``, ``tables/``, ``kept.arrow`` and ``figures/``.

    Raises:
        InputError: the image set is missing or empty, none of its images can be decoded, the recipe's
            boxes_file is missing or not what it should be, or the store of the images fails.
        ResultLockedError: another process is writing the result or one of the shards.
        InterruptedStageError: stopped by a signal, with the finished images kept.
    """
    _check_count(shards)
    work = list_work(recipe, images, output)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.proposals.merge import merge

        if intact_manifest(result.path) is None:
            _run(work, recipe, range(shards), shards)
        return merge(work, recipe, shards)

    return complete(work.result, recipe, tracking, compute)


def plan_shards(recipe: Recipe, *, images: str, output: str, count: int) -> str:
    """List and hash the image set once, for `count` shards that then need not.

    Args:
        recipe: the resolved recipe.
        images: the image set.
        output: root of all results.
        count: number of shards.

    Returns:
        Path or URI of the plan, for :func:`propose_shard` and :func:`merge_shards`; also of a result that is
        whole already, which they then leave as it is.

    Raises:
        InputError: as :func:`propose` does.
    """
    _check_count(count)
    work = list_work(recipe, images, output)
    if work.result.done is not None:
        say("proposals: already done, nothing to plan")
        return plan_uri(work.result)
    with disk_errors("proposals", work.result.path):
        if recipe.proposals.boxes_file:
            from soco_core.proposals.boxes_file import imported_boxes

            imported_boxes(work, recipe)
        return write_plan(work, recipe, count)


def propose_shard(recipe: Recipe, *, images: str, output: str, index: int, count: int, plan: str | None = None) -> str:
    """Do one of `count` shards; they may run at the same time, on different machines.

    Args:
        recipe: the resolved recipe.
        images: the image set.
        output: root of all results.
        index: the shard, from 0.
        count: number of shards.
        plan: what :func:`plan_shards` returned for this recipe, image set, output and number of shards. Without it
            the shard lists and hashes the whole image set itself.

    Returns:
        Path or URI of the result directory, which :func:`merge_shards` completes.

    Raises:
        InputError: as :func:`propose` does, or there is no such shard, or the plan is another's.
        ResultLockedError: another process works on this shard.
        InterruptedStageError: stopped by a signal, with the finished images kept.
    """
    _check_count(count)
    if not 0 <= index < count:
        raise InputError(f"shard {index} of {count}: the index must be from 0 to {count - 1}")
    work = _find(recipe, images, output, count, plan)
    if work.result.done is None and intact_manifest(work.result.path) is None:
        with disk_errors("proposals", work.result.path):
            _run(work, recipe, range(index, index + 1), count)
    else:
        say("proposals: already done, nothing to compute")
    return work.result.uri


def merge_shards(
    recipe: Recipe,
    *,
    images: str,
    output: str,
    count: int,
    plan: str | None = None,
    tracking: TrackingContext | None = None,
) -> ResultDirectory:
    """Complete the result of `count` finished shards; see :func:`propose` and :func:`propose_shard`.

    Raises:
        InputError: a shard is missing or damaged, no image can be decoded, or the plan is another's.
        ResultLockedError: another process is writing the result.
    """
    _check_count(count)
    work = _find(recipe, images, output, count, plan)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.proposals.merge import merge

        return merge(work, recipe, count)

    return complete(work.result, recipe, tracking, compute)


def _check_count(count: int) -> None:
    if count < 1:
        raise InputError(f"shards: {count} is not a number of shards; give 1 or more")


def _find(recipe: Recipe, images: str, output: str, count: int, plan: str | None) -> Work:
    if plan:
        return planned_work(recipe, images, output, plan, count)
    return list_work(recipe, images, output)


def _run(work: Work, recipe: Recipe, indices: range, count: int) -> None:
    from soco_core.engine.interrupt import InterruptGuard
    from soco_core.engine.progress import Progress
    from soco_core.engine.setup import usable_cores
    from soco_core.proposals.boxes_file import imported_boxes
    from soco_core.proposals.shards import cut, run_shard
    from soco_core.proposals.workers import Search, Workers

    ids = work.ids()
    shards = cut(work.result, len(ids), count)[indices.start : indices.stop]
    with ExitStack() as stack:
        guard = stack.enter_context(InterruptGuard())

        @cache
        def tools() -> tuple[Workers, Progress]:
            images_done = sum(shard.images_done() for shard in shards)
            total = sum(len(shard.images) for shard in shards)
            imported = imported_boxes(work, recipe) if recipe.proposals.boxes_file else None
            search = Search(work.source, recipe.proposals, recipe.images.max_pixels, recipe.seed, imported)
            wanted = recipe.runtime.search_workers
            processes = min(usable_cores() if wanted is None else wanted, total - images_done)
            progress = stack.enter_context(Progress("proposals", total, images_done, unit="images"))
            return stack.enter_context(Workers(search, processes)), progress

        for shard in shards:
            part = ids[shard.images.start : shard.images.stop].to_pylist()
            if not run_shard(shard, part, tools, guard) and len(shards) == 1:
                say(f"shard {shard.index + 1}/{count}: already done")

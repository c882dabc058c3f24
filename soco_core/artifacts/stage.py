"""The frame that every stage runs in: cache, lock, tracking, and what the user is told."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from soco_core.artifacts.result import ResultDirectory, writing
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InterruptedStageError, SocoError
from soco_core.tracking import Tracker, TrackingContext

Compute = Callable[[ResultDirectory, Tracker], dict[str, Any]]


def complete(
    result: ResultDirectory,
    recipe: Recipe,
    tracking: TrackingContext | None,
    compute: Compute,
    label: str | None = None,
) -> ResultDirectory:
    """Make a result whole, unless it is.

    Args:
        result: what :func:`soco_core.artifacts.result.locate` returned.
        recipe: the resolved recipe; stored with the result.
        tracking: where to track, or None.
        compute: writes the files of the result below ``result.path``, going on from what an earlier
            attempt left there, and returns the summary (plain JSON) for ``done.json``. It imports what
            is heavy, so that a result that is whole costs no import.
        label: name of the tracked run; the stage's name by default.

    Raises:
        ResultLockedError: another process is writing this result.
        SocoError: the disk is full; what was finished is kept.
    """
    name = label or result.stage
    tags = {"soco.stage": result.stage, "soco.result": result.uri}
    tracker = Tracker(tracking, result.path)
    if result.done is None:
        try:
            with writing(result, recipe):
                if result.done is None:
                    tracker.start(name, recipe, tags)
                    _finish(result, tracker, compute)
                    return result
        except Exception as error:
            if _disk_is_full(error):
                raise SocoError(
                    f"{name}: no space is left for {result.path}; free some and run the same command again, "
                    "it goes on from what is kept"
                ) from error
            raise
    say(f"{name}: already done, nothing to compute")
    tracker.reused(name, recipe, tags, result.summary)
    return result


def _finish(result: ResultDirectory, tracker: Tracker, compute: Compute) -> None:
    try:
        result.finish(compute(result, tracker))
    except BaseException as error:
        tracker.fail(killed=isinstance(error, InterruptedStageError | KeyboardInterrupt))
        raise
    tracker.finish(result.summary)


def _disk_is_full(error: BaseException | None) -> bool:
    """Tell whether a full disk (or quota) is behind an error; torch.save hides it behind one of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        error = error.__cause__ or error.__context__
    return False

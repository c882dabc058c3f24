"""The frame that every stage runs in: cache, lock, tracking, and what the user is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from soco_core.artifacts.disk import disk_errors
from soco_core.artifacts.result import ResultDirectory, writing
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InterruptedStageError
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
        SocoError: the disk is full, or cannot be written (InputError); what was finished is kept.
    """
    name = label or result.stage
    tags = {"soco.stage": result.stage, "soco.result": result.uri}
    tracker = Tracker(tracking, result.path)
    if result.done is None:
        with disk_errors(name, result.path), writing(result, recipe):
            if result.done is None:
                tracker.start(name, recipe, tags)
                _finish(result, tracker, compute)
                return result
    say(f"{name}: already done, nothing to compute")
    tracker.reused(name, recipe, tags, result.summary)
    return result


def anew(result: ResultDirectory) -> str:
    """Say how to compute a whole result once more."""
    return f"To compute it anew, name another --output, or remove {result.uri}"


def other_precision(result: ResultDirectory, used: str | None, wanted: str, field: str) -> list[str]:
    """Say that a whole result was computed in another precision than is asked for, which changed its numbers.

    Args:
        result: a whole one.
        used: what it was computed in, for people; None if it does not say.
        wanted: the precision that is asked for now; `auto` takes any.
        field: of the recipe that asks.

    Returns:
        One line, or none.
    """
    if used in (None, wanted) or wanted == "auto":
        return []
    return [f"{result.stage}: this result was computed in {used}, not in {field} ({wanted}). {anew(result)}"]


def _finish(result: ResultDirectory, tracker: Tracker, compute: Compute) -> None:
    try:
        result.finish(compute(result, tracker))
    except BaseException as error:
        tracker.fail(killed=isinstance(error, InterruptedStageError | KeyboardInterrupt))
        raise
    tracker.finish(result.summary)

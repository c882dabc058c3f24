"""What a stage says to MLflow; none of it waits for the server, but a little at the beginning and the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soco_core.config import Recipe
from soco_core.console import say
from soco_core.tracking.context import TrackingContext
from soco_core.tracking.delivery import Delivery, known_runs
from soco_core.tracking.spool import Spool

START_SECONDS = 10.0
END_SECONDS = 30.0
"""How long a stage waits at its end for each answer of the server."""
KILLED_SECONDS = 5.0
"""As END_SECONDS, for a stage that was asked to stop: it has half a minute for everything."""


class Tracker:
    """Sends one stage's metrics and files to MLflow, or nowhere if it has no context.

    Args:
        context: where to, or None.
        folder: the result directory; what MLflow does not get is kept there.
    """

    def __init__(self, context: TrackingContext | None, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._spool: Spool | None = None
        self._delivery: Delivery | None = None

    def start(self, name: str, recipe: Recipe, tags: dict[str, str]) -> None:
        """Create the stage's run, or go on with the one that an interrupted attempt created."""
        context = self._context
        if context is None:
            return
        self._spool = Spool(self._folder, context.place)
        self._spool.open(name, tags, recipe.to_yaml())
        self._delivery = Delivery(context, self._folder, self._spool)
        # A database file is made by this process, which must not fork meanwhile; it does not hang.
        self._delivery.hurry(START_SECONDS if context.uri.startswith("http") else None)

    def reused(self, name: str, recipe: Recipe, tags: dict[str, str], summary: dict[str, Any]) -> None:
        """Show a result that was already whole under this pipeline run (once), or deliver what it is still owed."""
        context = self._context
        if context is None:
            return
        spool = Spool(self._folder, context.place)
        if spool.opening is None:
            if context.place in known_runs(self._folder):
                return
            spool.open(name, {**tags, "soco.reused": "true"}, recipe.to_yaml())
        self._spool = spool
        self._delivery = Delivery(context, self._folder, spool)
        self.finish(summary)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Add a point to each metric's curve."""
        if self._spool is not None:
            self._spool.add(step, {key: float(value) for key, value in metrics.items()})

    def finish(self, summary: dict[str, Any]) -> None:
        """Send what is waiting, the summary's numbers, and the result's tables, pages and pictures."""
        self._end("FINISHED", summary, END_SECONDS)

    def fail(self, killed: bool) -> None:
        """Mark the run as failed (or stopped)."""
        self._end("KILLED" if killed else "FAILED", {}, KILLED_SECONDS if killed else END_SECONDS)

    def _end(self, status: str, summary: dict[str, Any], patience: float) -> None:
        spool, delivery = self._spool, self._delivery
        if spool is None or delivery is None:
            return
        if spool.end is None or spool.end["status"] != status:
            spool.close(status, summary)
        if not delivery.hurry(patience):
            kept = f"is kept in {spool.path}; the same command delivers it" if spool.keep() else "could not be kept"
            say(f"warning: what MLflow did not get of this stage {kept}")
        delivery.end()

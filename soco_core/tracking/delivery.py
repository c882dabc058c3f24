"""The thread that brings what waits in a spool to MLflow, whenever MLflow answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.console import say
from soco_core.storage import write_text
from soco_core.tracking.context import TrackingContext
from soco_core.tracking.server import find_experiment, is_there, open_client, without_password
from soco_core.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_FILE = ".mlflow.json"
FLUSH_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0
POINTS = 50
"""Points sent at once."""
BATCH = 1000
"""Most metrics that MLflow takes in one call."""
MAX_ARTIFACT_BYTES = 20 << 20
LOGGED_SUFFIXES = {".yaml", ".json", ".md", ".html", ".png", ".jsonl"}
"""What goes to MLflow as artifacts; weights, checkpoints and predictions stay in the result directory."""


class Delivery:
    """Delivers a spool in the background, in order, and tries again what failed.

    Args:
        context: where to.
        folder: the result directory.
        spool: what to deliver; it has been opened.
    """

    def __init__(self, context: TrackingContext, folder: Path, spool: Spool) -> None:
        # Here, not in the thread: a process that is forked in the midst of an import could never finish it.
        import mlflow.entities  # noqa: F401

        self._context, self._folder, self._spool = context, folder, spool
        self._client: MlflowClient | None = None
        self._run = ""
        self._failed = False
        self._said = False
        self._pause = FLUSH_SECONDS
        self._changed = threading.Condition()
        self._asked = self._answered = self._calls = 0
        self._ended = False
        # A daemon: a server that never answers must not keep the process from ending.
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def hurry(self, patience: float | None) -> bool:
        """Let the thread try at once, and wait for the outcome.

        Args:
            patience: seconds to wait for each answer of the server; None: as long as it takes.

        Returns:
            Whether all that waited is delivered.
        """
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            while self._answered < asked:
                calls = self._calls
                if not self._changed.wait_for(lambda: self._answered >= asked or self._calls > calls, patience):  # noqa: B023
                    return False
            return not self._failed

    def end(self) -> None:
        """Let the thread end after what it is doing now."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._asked > self._answered, self._pause)
                asked = self._asked
                if self._ended and asked == self._answered:
                    return
            self._attempt()
            if self._failed:
                self._spool.keep()
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _attempt(self) -> None:
        where = without_password(self._context.uri, self._context.uri)
        try:
            self._deliver()
        except Exception as error:  # MLflow's clients raise whatever their transport raises
            self._spool.give_back()
            self._failed = True
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            if not self._said:
                self._said = True
                cause = without_password(_first_line(error), self._context.uri)
                say(f"warning: MLflow at {where} cannot be written ({cause}); going on, it gets everything later")
        else:
            if self._failed:
                say(f"MLflow at {where} answers again, and has everything")
            self._failed = self._said = False
            self._pause = FLUSH_SECONDS

    def _deliver(self) -> None:
        if self._client is None:
            self._client = open_client(self._context.uri)
        if not self._run:
            self._begin(self._client)
        self._send_points(self._client)
        # What the end says is whole by now: it was noted after the last point.
        end = self._spool.end
        if end is not None:
            self._send_points(self._client)
            self._close(self._client, end)
            self._spool.remove()

    def _begin(self, client: MlflowClient) -> None:
        """Create the run, or go on with the one that an earlier attempt created."""
        context, opening = self._context, self._spool.opening
        assert opening is not None
        known = known_runs(self._folder).get(context.place)
        if known is not None and is_there(client, known):
            if self._spool.end is None:
                client.update_run(known, status="RUNNING")
            self._run = known
        else:
            parent = {"mlflow.parentRunId": context.parent} if context.parent else {}
            experiment = find_experiment(client, context.uri)
            tags = {**opening["tags"], **parent}
            self._run = client.create_run(experiment, run_name=opening["name"], tags=tags).info.run_id
            _remember(self._folder, context, self._run)
            client.log_text(self._run, opening["recipe"], "config.yaml")
        self._progress()

    def _send_points(self, client: MlflowClient) -> None:
        from mlflow.entities import Metric

        while points := self._spool.take(POINTS):
            metrics = [Metric(key, value, when, step) for step, when, values in points for key, value in values.items()]
            self._log(client, metrics)
            self._spool.sent()

    def _close(self, client: MlflowClient, end: dict[str, Any]) -> None:
        """Send the summary's numbers, the result's tables, pages and pictures, and at last the status."""
        from mlflow.entities import Metric

        self._log(client, [Metric(key, value, end["time"], 0) for key, value in _numbers(end["summary"])])
        for path in sorted(self._folder.rglob("*")) if end["status"] == "FINISHED" else ():
            logged = path.suffix in LOGGED_SUFFIXES and not path.name.startswith(".")
            if logged and path.stat().st_size <= MAX_ARTIFACT_BYTES:
                where = path.parent.relative_to(self._folder).as_posix()
                client.log_artifact(self._run, str(path), "" if where == "." else where)
                self._progress()
        client.set_terminated(self._run, end["status"], end_time=end["time"])

    def _log(self, client: MlflowClient, metrics: list[Any]) -> None:
        for first in range(0, len(metrics), BATCH):
            client.log_batch(self._run, metrics=metrics[first : first + BATCH])
            self._progress()

    def _progress(self) -> None:
        with self._changed:
            self._calls += 1
            self._changed.notify_all()


def known_runs(folder: Path) -> dict[str, str]:
    """Return the runs that show a result, by place."""
    try:
        return dict(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _remember(folder: Path, context: TrackingContext, run: str) -> None:
    # A result may lie on a volume that is read-only by now; its run is then shown again another time.
    with suppress(OSError):
        write_text(folder / RUN_FILE, json.dumps({**known_runs(folder), context.place: run}))


def _numbers(summary: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in summary.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

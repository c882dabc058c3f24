"""MLflow: one parent run per pipeline run, one child run per stage.

Tracking mirrors the result directories; it is never the source of anything. A stage that found its
result whole under a new pipeline run is shown there too, marked as reused. Trouble with MLflow is said
once and never stops a stage.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.config import Recipe
from soco_core.console import say
from soco_core.storage import write_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "soco"
RUN_FILE = ".mlflow.json"
FLUSH_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0
BATCH = 100
"""Most parameters that MLflow takes in one call; it would take ten times as many metrics."""
MAX_ARTIFACT_BYTES = 20 << 20
LOGGED_SUFFIXES = {".yaml", ".json", ".md", ".html", ".png", ".jsonl"}
"""What goes to MLflow as artifacts; weights, checkpoints and predictions stay in the result directory."""


@dataclass(frozen=True)
class TrackingContext:
    """Where a pipeline run is tracked."""

    uri: str
    """MLflow tracking URI."""
    parent: str
    """Id of the parent run; empty for a stage that runs alone."""

    def to_json(self) -> str:
        """Return the context as text, to hand it to a stage in another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrackingContext | None:
        """Read what :meth:`to_json` wrote; empty text means no tracking."""
        return cls(**json.loads(text)) if text else None

    @classmethod
    def from_environment(cls) -> TrackingContext | None:
        """Track a stage that runs alone if ``MLFLOW_TRACKING_URI`` is set."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        return cls(uri, "") if uri else None


def default_store(output: str | Path) -> str:
    """Return the tracking URI used when none is given: an SQLite file in a local output directory."""
    return f"sqlite:///{Path(output).resolve()}/mlflow.db"


def start_pipeline_run(uri: str, name: str, recipe: Recipe, tags: dict[str, str]) -> TrackingContext:
    """Create the parent run of a pipeline run; trouble with MLflow is the caller's to tolerate."""
    from mlflow.entities import Param

    client = _client(uri)
    run = client.create_run(_experiment(client, uri), run_name=name, tags={"soco.recipe": recipe.name, **tags})
    client.log_text(run.info.run_id, recipe.to_yaml(), "config.yaml")
    parameters = [Param(key, str(value)) for key, value in _parameters(recipe).items()]
    for first in range(0, len(parameters), BATCH):
        client.log_batch(run.info.run_id, params=parameters[first : first + BATCH])
    return TrackingContext(uri, run.info.run_id)


def resume_pipeline_run(context: TrackingContext) -> None:
    """Show the parent run as running again."""
    _client(context.uri).update_run(context.parent, status="RUNNING")


def end_pipeline_run(context: TrackingContext, succeeded: bool) -> None:
    """Close the parent run."""
    _client(context.uri).set_terminated(context.parent, "FINISHED" if succeeded else "FAILED")


class Tracker:
    """Sends one stage's metrics and files to MLflow, or nowhere if it has no context."""

    def __init__(self, context: TrackingContext | None, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._client: MlflowClient | None = None
        self._run = ""
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()
        self._pause = FLUSH_SECONDS
        self._failed = False

    def start(self, name: str, recipe: Recipe, tags: dict[str, str]) -> None:
        """Create the stage's run, or go on with the one that an interrupted attempt created."""
        context = self._context
        if context is None:
            return

        def begin() -> None:
            self._client = _client(context.uri)
            known = self._known_runs().get(_place(context))
            if known is not None and _is_there(self._client, known):
                self._client.update_run(known, status="RUNNING")
                self._run = known
                return
            parent = {"mlflow.parentRunId": context.parent} if context.parent else {}
            experiment = _experiment(self._client, context.uri)
            self._run = self._client.create_run(experiment, run_name=name, tags={**tags, **parent}).info.run_id
            self._remember(context)
            self._client.log_text(self._run, recipe.to_yaml(), "config.yaml")

        self._attempt(begin)

    def reused(self, name: str, recipe: Recipe, tags: dict[str, str], summary: dict[str, Any]) -> None:
        """Show a result that was already whole under this pipeline run (once)."""
        context = self._context
        if context is None or _place(context) in self._known_runs():
            return
        self.start(name, recipe, {**tags, "soco.reused": "true"})
        self.finish(summary)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Add a point to each metric's curve."""
        if not self._run:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        if time.monotonic() - self._flushed >= self._pause:
            self._attempt(self._flush)

    def finish(self, summary: dict[str, Any]) -> None:
        """Send what is waiting, the summary's numbers, and the result's tables, pages and pictures."""

        def end() -> None:
            assert self._client is not None
            self._flush()
            for key, value in _numbers(summary):
                self._client.log_metric(self._run, key, value)
            self._client.set_terminated(self._run)
            for path in sorted(self._folder.rglob("*")):
                logged = path.suffix in LOGGED_SUFFIXES and not path.name.startswith(".")
                if logged and path.stat().st_size <= MAX_ARTIFACT_BYTES:
                    where = path.parent.relative_to(self._folder).as_posix()
                    self._client.log_artifact(self._run, str(path), "" if where == "." else where)

        if self._run:
            self._attempt(end)

    def fail(self, killed: bool) -> None:
        """Mark the run as failed (or stopped)."""

        def end() -> None:
            assert self._client is not None
            self._flush()
            self._client.set_terminated(self._run, "KILLED" if killed else "FAILED")

        if self._run:
            self._attempt(end)

    def _flush(self) -> None:
        assert self._client is not None
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]
        self._flushed = time.monotonic()
        self._pause = FLUSH_SECONDS

    def _known_runs(self) -> dict[str, str]:
        """Return the runs that show this result, by place."""
        try:
            return dict(json.loads((self._folder / RUN_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _remember(self, context: TrackingContext) -> None:
        # A result may lie on a volume that is read-only by now; its run is then shown again another time.
        with suppress(OSError):
            write_text(self._folder / RUN_FILE, json.dumps({**self._known_runs(), _place(context): self._run}))

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # MLflow's clients raise whatever their transport raises
            # Asked ever less often: a server that does not answer must not slow the training down.
            self._flushed = time.monotonic()
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            if not self._failed:
                self._failed = True
                uri = self._context.uri if self._context else ""
                cause = without_password(_first_line(error), uri)
                say(f"warning: MLflow at {without_password(uri, uri)} cannot be written ({cause}); going on")


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep MLflow's and Alembic's notes about creating a database off the screen."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def without_password(text: str, uri: str) -> str:
    """Return a text without the user and password that a tracking URI in it may hold."""
    secret = re.search(r"//[^/\s:@]*:([^/\s@]+)@", uri)
    text = re.sub(r"//[^/\s]*@", "//", text)
    return text.replace(secret[1], "***") if secret else text


def _client(uri: str) -> MlflowClient:
    # MLflow's own patience with a server is minutes for each call, and it is set in this way only.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with quiet_mlflow():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    with quiet_mlflow():
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        # Beside an SQLite file MLflow would put artifacts into the current directory.
        location = None
        if uri.startswith("sqlite:///"):
            location = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=location))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
            return str(found.experiment_id)


def _is_there(client: MlflowClient, run: str) -> bool:
    """Tell whether a run still exists; people delete runs, and whole stores."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _place(context: TrackingContext) -> str:
    """Return the key of a run in RUN_FILE: its store, without a password, and its parent."""
    return f"{without_password(context.uri, context.uri)} {context.parent}"


def _parameters(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat


def _numbers(summary: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in summary.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

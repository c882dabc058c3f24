"""Where a pipeline run is tracked, and its parent run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soco_core.config import Recipe
from soco_core.tracking.server import find_experiment, open_client, without_password

PARENT = "SOCO_PARENT_RUN"
"""Environment variable: id of the parent run, for a stage that a pipeline runs by its command."""
BATCH = 100
"""Most parameters that MLflow takes in one call; it would take ten times as many metrics."""


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
        """Track a stage that runs by its command if ``MLFLOW_TRACKING_URI`` is set."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        return cls(uri, os.environ.get(PARENT, "")) if uri else None

    def to_environment(self) -> dict[str, str]:
        """Return the context as the variables that :meth:`from_environment` reads, in another process."""
        return {"MLFLOW_TRACKING_URI": self.uri, **({PARENT: self.parent} if self.parent else {})}

    @property
    def place(self) -> str:
        """What names the runs below this parent in files: the store, without a password, and the parent."""
        return f"{without_password(self.uri, self.uri)} {self.parent}"


def default_store(output: str | Path) -> str:
    """Return the tracking URI used when none is given: an SQLite file in a local output directory."""
    return f"sqlite:///{Path(output).resolve()}/mlflow.db"


def start_pipeline_run(uri: str, name: str, recipe: Recipe, tags: dict[str, str]) -> TrackingContext:
    """Create the parent run of a pipeline run; trouble with MLflow is the caller's to tolerate."""
    from mlflow.entities import Param

    client = open_client(uri)
    run = client.create_run(find_experiment(client, uri), run_name=name, tags={"soco.recipe": recipe.name, **tags})
    client.log_text(run.info.run_id, recipe.to_yaml(), "config.yaml")
    parameters = [Param(key, str(value)) for key, value in _parameters(recipe).items()]
    for first in range(0, len(parameters), BATCH):
        client.log_batch(run.info.run_id, params=parameters[first : first + BATCH])
    return TrackingContext(uri, run.info.run_id)


def resume_pipeline_run(context: TrackingContext) -> None:
    """Show the parent run as running again."""
    open_client(context.uri).update_run(context.parent, status="RUNNING")


def end_pipeline_run(context: TrackingContext, succeeded: bool) -> None:
    """Close the parent run."""
    open_client(context.uri).set_terminated(context.parent, "FINISHED" if succeeded else "FAILED")


def _parameters(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat

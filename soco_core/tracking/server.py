"""MLflow's server, and what may be said of it: no password gets onto the screen or into a file."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from soco_core.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "soco"
STORES = frozenset({"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"})
"""What a tracking URI begins with, before a driver's name (``postgresql+psycopg2``)."""


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
    login = _login(uri)
    if login:
        text = text.replace(f"//{login}@", "//")
    text = re.sub(r"//[^/\s]*@", "//", text)
    password = login.partition(":")[2]
    return text.replace(password, "***") if password else text


def check_tracking_uri(uri: str) -> None:
    """Refuse a tracking URI that is none, or holds a password, which files, stages and a pipeline's pages would show.

    Raises:
        InputError: so it is.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    if uri and kind not in STORES:
        raise InputError(
            f"the tracking URI {uri}: not one of MLflow's; give a server (http://HOST:5000) or a database "
            "(sqlite:////PATH/mlflow.db, postgresql://USER@HOST/NAME)"
        )
    if ":" in _login(uri):
        raise InputError(
            f"the tracking URI {without_password(uri, uri)} holds a password, which runs would show; leave it out and "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (PGPASSWORD for a database) in the environment"
        )


def _login(uri: str) -> str:
    """Return the user and password of a URI, as ``user:password``; empty if there is none."""
    rest = uri.partition("//")[2]
    host, _, path = rest.partition("/")
    if "@" in host:
        return host.rpartition("@")[0]
    # A slash in a password should be written %2F, but is not by everybody.
    port = host.partition(":")[2]
    if "@" in path and port and not port.isdecimal() and not host.startswith("["):
        return rest.rpartition("@")[0]
    return ""


def open_client(uri: str) -> MlflowClient:
    """Return a client; nothing is sent yet."""
    # MLflow's own patience with a server is minutes for each call, and it is set in this way only.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # A command prints where its result lies, and nothing else.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    with quiet_mlflow():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def find_experiment(client: MlflowClient, uri: str) -> str:
    """Return the id of soco's experiment, which is made if there is none."""
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


def is_there(client: MlflowClient, run: str) -> bool:
    """Tell whether a run still exists; people delete runs, and whole stores."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise

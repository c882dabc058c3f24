"""Submitting a pipeline to a Kubeflow Pipelines endpoint, and waiting for its run."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.access import Access, EndpointError
from pipelines.endpoint import LOGIN, within
from soco_core.engine.component import EXIT_BUG, EXIT_STOPPED

DEADLINE_SECONDS = 60.0
"""For one question or order to the endpoint; kfp's client itself knows no end."""
POLL_SECONDS = 10.0
LONGEST_SILENCE_SECONDS = 900.0
"""So long an endpoint may be away, or give errors, while a run is waited for."""
SUCCEEDED = ("SUCCEEDED", "SKIPPED")
ENDED = (*SUCCEEDED, "FAILED", "CANCELED")
NO_LOGIN = (401, 403)


def submit(
    pipeline: Any,
    arguments: Mapping[str, Any],
    *,
    access: Access,
    namespace: str,
    experiment: str,
    name: str,
    service_account: str = "",
) -> str:
    """Compile a pipeline into a package and start a run of it.

    Args:
        pipeline: a kfp pipeline.
        arguments: its parameters.
        access: the endpoint.
        namespace: of the run; empty: the endpoint's.
        experiment: of the run; it is created if need be.
        name: of the run.
        service_account: of the run; empty: the endpoint's.

    Returns:
        The run's id.

    Raises:
        EndpointError: the endpoint refuses the run, or does not answer.
    """
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        package = str(Path(folder, "pipeline.yaml"))
        compiler.Compiler().compile(pipeline, package)

        def start() -> Any:
            return access.client().create_run_from_pipeline_package(
                package,
                arguments=dict(arguments),
                run_name=name,
                experiment_name=experiment,
                namespace=namespace or None,
                enable_caching=False,
                service_account=service_account or None,
            )

        try:
            with _quiet():
                run = within(DEADLINE_SECONDS, start, access.name)
        except EndpointError as error:
            raise EndpointError(f"{error}; look into the UI whether the run {name} was started") from error
        except Exception as error:  # kfp's client raises whatever urllib3 and its API models raise
            raise EndpointError(f"{access.name}: the run was not accepted ({_cause(error)})") from error
    if not run.run_id:
        raise EndpointError(f"{access.name}: the run was not accepted (the answer names no run; a login page?)")
    return str(run.run_id)


def wait(access: Access, run: str, say: Callable[[str], None] | None = None) -> int:
    """Follow a run to its end; changes of its state are shown.

    Args:
        access: the endpoint.
        run: its id.
        say: shows a line; by default on standard error.

    Returns:
        The exit status: 0 if the run succeeded, 1 if it failed or was cancelled, 130 if Ctrl-C left it alone.

    Raises:
        EndpointError: the endpoint knows no such run, lets nobody in any more, or is silent for too long.
    """
    show = say or _show
    state = ""
    try:
        for found in _states(access, run, show):
            now = str(getattr(found, "state", None) or "PENDING")
            if now != state:
                state = now
                show(f"{time.strftime('%H:%M:%S')} {state}")
            if state in ENDED:
                return _outcome(found, state, show)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        show(f"left alone, and goes on: {access.link(run)}")
        return EXIT_STOPPED
    raise AssertionError("unreachable")  # _states never ends by itself


def _states(access: Access, run: str, show: Callable[[str], None]) -> Any:
    """Yield a run again and again; an endpoint that is away for a while is said once."""
    client: Any = None
    silent_since = 0.0
    while True:
        try:
            with _quiet():
                client = client or within(DEADLINE_SECONDS, access.client, access.name)
                found = within(DEADLINE_SECONDS, partial(client.get_run, run), access.name)
        except Exception as error:  # kfp's client raises whatever urllib3 and its API models raise
            status = getattr(error, "status", None)
            if status in NO_LOGIN:
                raise _locked_out(access, run, f"answered {status}") from error
            if status == 404:
                raise EndpointError(f"{access.name}: there is no run {run} any more") from error
            if not silent_since:
                silent_since = time.monotonic()
                show(f"{access.name}: no answer ({_cause(error)}); asked again")
            if time.monotonic() - silent_since > LONGEST_SILENCE_SECONDS:
                raise EndpointError(
                    f"{access.name}: no answer for {LONGEST_SILENCE_SECONDS:.0f} s ({_cause(error)}); the run goes on: "
                    f"{access.link(run)}"
                ) from error
            time.sleep(POLL_SECONDS)
            continue
        if getattr(found, "run_id", None) != run:
            raise _locked_out(access, run, "answered with something else than the run (a login page?)")
        silent_since = 0.0
        yield found


def _locked_out(access: Access, run: str, said: str) -> EndpointError:
    return EndpointError(f"{access.name}: {said}; the run goes on: {access.link(run)}; to watch it, {LOGIN}")


def _outcome(run: Any, state: str, show: Callable[[str], None]) -> int:
    if state in SUCCEEDED:
        return 0
    details = getattr(run, "run_details", None)
    tasks = (getattr(details, "task_details", None) or []) if details else []
    failed = [task for task in tasks if getattr(task, "state", "") == "FAILED"]
    for task in failed:
        cause = getattr(getattr(task, "error", None), "message", "") or "see its log"
        show(f"error: {task.display_name}: {' '.join(cause.split())[:300]}")
    error = getattr(getattr(run, "error", None), "message", "")
    if error and not failed:
        show(f"error: {' '.join(error.split())[:300]}")
    return EXIT_BUG


def _cause(error: Exception) -> str:
    """Put what kfp's client raised on one line: status and reason, or the message that the answer has."""
    status, body = getattr(error, "status", None), getattr(error, "body", "")
    if status is None:
        return " ".join(str(error).split())[:300] or type(error).__name__
    try:
        text = str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        text = str(getattr(error, "reason", ""))
    return f"{status} {' '.join(text.split())[:300]}"


@contextmanager
def _quiet() -> Any:
    """Keep what kfp's client prints off the screen: links to other pages, and notes about itself."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

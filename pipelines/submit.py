"""Submitting a pipeline to a Kubeflow Pipelines endpoint, which is looked at first."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soco_core.errors import SocoError

HEALTH_PATH = "/apis/v2beta1/healthz"
TIMEOUT_SECONDS = 3.0
DEADLINE_SECONDS = 4.0
"""Bounds the whole look: a name that does not resolve and a slow trickle of bytes know no timeout."""


class EndpointError(SocoError):
    """A Kubeflow Pipelines endpoint does not answer as one."""


def endpoint(host: str | None) -> str:
    """Return the endpoint's address: `host`, or the first of KFP_ENDPOINT and KF_PIPELINES_ENDPOINT that is set.

    Raises:
        EndpointError: none is given, or it is not an http(s) address.
    """
    address = host or os.environ.get("KFP_ENDPOINT") or os.environ.get("KF_PIPELINES_ENDPOINT") or ""
    if not address:
        raise EndpointError("no endpoint: give --host http://..., or set KFP_ENDPOINT")
    if not address.startswith(("http://", "https://")):
        address = f"http://{address}"
    return address.rstrip("/")


def check_endpoint(address: str) -> None:
    """Ask an endpoint for its health; ends within `DEADLINE_SECONDS`.

    kfp's own client takes 25 s to give up, and takes a login page for success.

    Raises:
        EndpointError: one line that names the address and what is wrong.
    """
    outcome: list[EndpointError | None] = []

    def look() -> None:
        try:
            _look(address)
        except EndpointError as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    if not outcome:
        raise EndpointError(f"{address}: no answer within {DEADLINE_SECONDS:.0f} s; check the address and the network")
    if outcome[0] is not None:
        raise outcome[0]


def _look(address: str) -> None:
    try:
        with urllib.request.urlopen(address + HEALTH_PATH, timeout=TIMEOUT_SECONDS) as response:
            answer = response.read(1 << 16)
    except urllib.error.HTTPError as error:
        hint = (
            "log in first, or go through `kubectl port-forward`" if error.code in {401, 403} else "is it the right one?"
        )
        raise EndpointError(f"{address}: Kubeflow Pipelines answered {error.code} {error.reason}; {hint}") from error
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise EndpointError(f"{address}: cannot be reached ({reason}); check --host and the network") from error
    except Exception as error:  # http.client's errors about an answer that is not HTTP
        raise EndpointError(f"{address}: does not speak HTTP ({type(error).__name__}); check --host") from error
    try:
        healthy = isinstance(json.loads(answer), dict)
    except ValueError:
        healthy = False
    if not healthy:
        raise EndpointError(
            f"{address}: answered with a page instead of JSON (a login page?); go through `kubectl port-forward`"
        )


def submit(
    pipeline: Any, arguments: Mapping[str, Any], *, address: str, namespace: str | None, experiment: str, name: str
) -> str:
    """Compile a pipeline and start a run of it.

    Returns:
        The address of the run in the Kubeflow UI.

    Raises:
        EndpointError: the endpoint refuses the run.
    """
    import kfp
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        package = str(Path(folder, "pipeline.yaml"))
        compiler.Compiler().compile(pipeline, package)
        try:
            client = kfp.Client(host=address, namespace=namespace or "kubeflow")
            run = client.create_run_from_pipeline_package(
                package,
                arguments=dict(arguments),
                run_name=name,
                experiment_name=experiment,
                namespace=namespace,
                enable_caching=False,
            )
        except Exception as error:  # kfp's client raises whatever urllib3 and its API models raise
            cause = " ".join(str(error).split())[:300]
            raise EndpointError(f"{address}: the run was not accepted ({cause})") from error
    if not run.run_id:
        raise EndpointError(f"{address}: the run was not accepted (the answer names no run; a login page?)")
    return f"{address}/#/runs/details/{run.run_id}"

"""A look at a Kubeflow Pipelines endpoint before anything is sent to it."""

from __future__ import annotations

import json
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from pipelines.access import SYSTEM_NAMESPACE, Access, EndpointError
from soco_core.errors import one_line

HEALTH_PATH = "/apis/v2beta1/healthz"
PROXY_PATH = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/services/ml-pipeline:http/proxy"
TIMEOUT_SECONDS = 3.0
DEADLINE_SECONDS = 4.0
"""Bounds the whole look: a name that does not resolve and a slow trickle of bytes know no timeout."""
OLDEST = (2, 14)
LOGIN = "give --token FILE or --cookies FILE (KFP_TOKEN, KFP_COOKIES), or go through `kubectl port-forward`"
Answer = TypeVar("Answer")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token would go with it to wherever it leads."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def check_endpoint(access: Access) -> dict[str, Any]:
    """Ask an endpoint for its health; ends within `DEADLINE_SECONDS`.

    kfp's own client takes 25 s to give up, and takes a login page for success.

    Returns:
        What it says of itself, such as `tag_name` and `multi_user`.

    Raises:
        EndpointError: one line that names the address and what is wrong.
    """
    ask = _through_kubernetes if not access.address else _directly
    try:
        answer = json.loads(within(DEADLINE_SECONDS, lambda: ask(access), access.name))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise EndpointError(f"{access.name}: answered with a page instead of JSON (a login page?); {LOGIN}")
    return answer


def too_old(health: dict[str, Any]) -> str:
    """Return the release of an endpoint that is older than what these pipelines need; else an empty text."""
    match = re.match(r"v?(\d+)\.(\d+)", str(health.get("tag_name", "")))
    return str(health["tag_name"]) if match and (int(match[1]), int(match[2])) < OLDEST else ""


def within(seconds: float, ask: Callable[[], Answer], name: str) -> Answer:
    """Return what a function returns; an endpoint that does not answer in time is an error.

    Raises:
        EndpointError: the time is over; the function is left alone.
    """
    outcome: list[Callable[[], Answer]] = []

    def work() -> None:
        try:
            found = ask()
        except BaseException as caught:
            error = caught

            def fail() -> Answer:
                raise error

            outcome.append(fail)
        else:
            outcome.append(lambda: found)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise EndpointError(f"{name}: no answer within {seconds:.0f} s; check the address and the network")
    return outcome[0]()


def _directly(access: Access) -> bytes:
    opener = urllib.request.build_opener(_StayHere())
    request = urllib.request.Request(access.address + HEALTH_PATH, headers=access.headers)
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            return bytes(response.read(1 << 16))
    except urllib.error.HTTPError as error:
        raise EndpointError(f"{access.name}: {_refusal(error, access)}") from error
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            raise EndpointError(
                f"{access.name}: its certificate is not taken ({one_line(reason)[:200]}); name the authority's file in "
                "SSL_CERT_FILE"
            ) from error
        raise EndpointError(f"{access.name}: cannot be reached ({reason}); check --host and the network") from error
    except Exception as error:  # http.client's errors about an answer that is not HTTP
        raise EndpointError(f"{access.name}: does not speak HTTP ({type(error).__name__}); check --host") from error


def _refusal(error: urllib.error.HTTPError, access: Access) -> str:
    said = f"Kubeflow Pipelines answered {error.code} {error.reason}"
    if 300 <= error.code < 400:
        where = error.headers.get("Location", "elsewhere").partition("?")[0]
        return f"{said} and sends to {where} (a login page?); {LOGIN}"
    if error.code in {401, 403}:
        known = "the token or the cookies are not taken (expired?); " if access.headers else "log in first: "
        return f"{said}; {known}{LOGIN}"
    return f"{said}; is it the right one?"


def _through_kubernetes(access: Access) -> bytes:
    from kubernetes import client, config

    try:
        settings = client.Configuration()
        settings.retries = False
        config.load_kube_config(context=access.context or None, client_configuration=settings, persist_config=False)
        answer = client.ApiClient(settings).call_api(
            PROXY_PATH + HEALTH_PATH,
            "GET",
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=TIMEOUT_SECONDS,
        )
        return bytes(answer[0].data)
    except config.ConfigException as error:
        raise EndpointError(f"--context {access.context}: {one_line(error)}; `kubectl config get-contexts`") from error
    except client.ApiException as error:
        raise EndpointError(f"{access.name}: Kubernetes answered {error.status} {error.reason}") from error
    except Exception as error:  # urllib3 raises errors of many kinds
        raise EndpointError(f"{access.name}: cannot be reached ({one_line(error)[:200]})") from error

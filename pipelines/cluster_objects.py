"""A look at a cluster for the claims, secrets and service account that pods will name, if a kubeconfig leads there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soco_core.errors import InputError, one_line

TIMEOUT_SECONDS = (3.0, 5.0)
NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""What is in a secret is not asked for."""
CLAIM, SECRET, ACCOUNT = "persistentvolumeclaims", "secrets", "serviceaccounts"
REMEDY = {
    CLAIM: "claim {}: not in namespace {}; create it (k8s/base/claims.yaml), or name another one by --claim",
    SECRET: "secret {}: not in namespace {}; create it (kubectl create secret), or name another one by --secret",
    ACCOUNT: "service account {}: not in namespace {}; create it, or name another one by --service-account",
}


@dataclass(frozen=True)
class Objects:
    """What pods will name."""

    claims: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    service_account: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self.claims or self.secrets or self.service_account)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from ((CLAIM, name) for name in self.claims)
        yield from ((SECRET, name) for name in self.secrets)
        yield from ((ACCOUNT, name) for name in filter(None, [self.service_account]))


def look_for(objects: Objects, namespace: str, context: str = "") -> tuple[list[str], list[str]]:
    """Ask a cluster for each object.

    Args:
        objects: what pods will name.
        namespace: theirs.
        context: of the kubeconfig; empty: its current one, or the service account of this pod.

    Returns:
        A line for each that is missing or will not do, and lines about what could not be checked.
    """
    names = ", ".join(name for _, name in objects)
    try:
        client = _connect(context)
    except Exception as error:  # kubernetes raises of many kinds about a kubeconfig
        return [], [f"{names}: not checked, as no cluster is reached ({one_line(error)[:160]})"]
    missing: list[str] = []
    unchecked: list[str] = []
    for kind, name in objects:
        try:
            found = _read(client, kind, name, namespace)
        except Exception as error:  # urllib3 and kubernetes raise errors of many kinds
            status = getattr(error, "status", None)
            if status is None:
                return missing, [*unchecked, f"{names}: not checked, as the cluster does not answer ({_short(error)})"]
            unchecked.append(f"{kind[:-1]} {name}: not checked (Kubernetes answered {status} {error.reason})")  # type: ignore[attr-defined]
            continue
        if found is None:
            missing.append(REMEDY[kind].format(name, namespace))
        elif kind == CLAIM and found.get("status", {}).get("phase") == "Lost":
            missing.append(f"claim {name}: its volume is lost; bind it to another one")
    return missing, unchecked


def _connect(context: str) -> Any:
    from kubernetes import client, config

    settings = client.Configuration()
    if not context and os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=settings)
    else:
        file = os.environ.get("KUBECONFIG")
        if not file and not Path("~/.kube/config").expanduser().exists():
            raise InputError("no kubeconfig")
        config.load_kube_config(context=context or None, client_configuration=settings, persist_config=False)
    settings.retries = False
    return client.ApiClient(settings)


def _read(client: Any, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
    from kubernetes.client import ApiException

    accept = "application/json" if kind == CLAIM else NAMES_ONLY
    try:
        answer = client.call_api(
            f"/api/v1/namespaces/{namespace}/{kind}/{name}",
            "GET",
            header_params={"Accept": accept},
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=TIMEOUT_SECONDS,
        )
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    return dict(json.loads(answer[0].data))


def _short(error: Exception) -> str:
    return one_line(error)[:160]

"""How a Kubeflow Pipelines endpoint is reached: its address, or a cluster's context, and what lets one in."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from typing import Any

from soco_core.errors import InputError, SocoError
from soco_core.storage import read_text

ADDRESSES = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
TOKEN = "KFP_TOKEN"
COOKIES = "KFP_COOKIES"
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
SYSTEM_NAMESPACE = "kubeflow"
"""Where Kubeflow Pipelines itself runs."""


class EndpointError(SocoError):
    """A Kubeflow Pipelines endpoint does not answer as one."""


@dataclass(frozen=True)
class Access:
    """One endpoint. What is secret is not shown by `repr`, and so by no log."""

    address: str
    """``http://...``, without a slash at its end; empty: through Kubernetes."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    token: str = field(default="", repr=False)
    cookies: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.address or f"Kubeflow Pipelines through the context {self.context}"

    @property
    def headers(self) -> dict[str, str]:
        """Of a request."""
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return bearer | ({"Cookie": self.cookies} if self.cookies else {})

    def link(self, run: str) -> str:
        """Return where the Kubeflow UI shows a run, or how to get there."""
        page = f"/#/runs/details/{run}"
        base = os.environ.get("KF_PIPELINES_UI_ENDPOINT", "").rstrip("/") or self.address
        if base:
            return base + page
        context = f"--context {self.context} " if self.context else ""
        forward = f"kubectl {context}-n {SYSTEM_NAMESPACE} port-forward svc/ml-pipeline-ui 8080:80"
        return f"http://localhost:8080{page} (after: {forward})"

    def client(self) -> Any:
        """Return a `kfp.Client`, which asks for the endpoint's health first."""
        import kfp

        certificates = next(filter(None, map(os.environ.get, CERTIFICATES)), None)
        return (kfp.Client if self.address else _through_kubernetes())(
            host=self.address or None,
            namespace=SYSTEM_NAMESPACE,
            existing_token=self.token or None,
            cookies=self.cookies or None,
            kube_context=self.context or None,
            ssl_ca_cert=certificates,
        )


def _through_kubernetes() -> Any:
    """Return a `kfp.Client` whose address stays that of the proxy in Kubernetes' API.

    The hook of the package kubernetes that renews a login before each request also sets the address anew, to the API
    itself, and then itself.
    """
    import kfp

    class Client(kfp.Client):
        def _load_config(self, *arguments: Any, **settings: Any) -> Any:
            config = super()._load_config(*arguments, **settings)
            host, renew = config.host, config.refresh_api_key_hook

            def renew_only(changed: Any) -> None:
                renew(changed)
                changed.host, changed.refresh_api_key_hook = host, renew_only

            if renew is not None:
                config.refresh_api_key_hook = renew_only
            return config

    return Client


def find_access(options: argparse.Namespace, host: str = "") -> Access:
    """Return the endpoint: ``--host``, the environment, `host`; without an address, ``--context``.

    Args:
        options: of the command.
        host: what the site's file says.

    Raises:
        EndpointError: none is given, or it is not an http(s) address.
        InputError: the file of the token or the cookies cannot be read.
    """
    said = [options.host, *([] if options.context else [os.environ.get(name) for name in ADDRESSES] + [host])]
    address = endpoint(next(filter(None, said), "")) if any(said) else ""
    if not address and not options.context:
        raise EndpointError(
            "endpoint: none is given; give --host http://..., set KFP_ENDPOINT, or name a kubeconfig's context by "
            "--context"
        )
    return Access(
        address,
        context=options.context or "",
        token=_secret("--token", options.token, TOKEN),
        cookies=_secret("--cookies", options.cookies, COOKIES),
    )


def endpoint(address: str) -> str:
    """Return an address with its scheme, as it is asked.

    Raises:
        EndpointError: it holds a password, or has another scheme than http(s).
    """
    scheme, colon, _ = address.partition("://")
    if not colon:
        address = f"http://{address}"
    elif scheme not in {"http", "https"}:
        raise EndpointError(f"endpoint {address}: give an address that begins with http:// or https://")
    if "@" in address.partition("://")[2].partition("/")[0]:
        raise EndpointError(
            "endpoint: its address holds a user or password; leave it out, and give --token or --cookies"
        )
    return address.rstrip("/")


def _secret(option: str, file: str | None, variable: str) -> str:
    """Read what lets one in; it is not repeated, as people give the secret itself in place of a file."""
    if file is None:
        return _one_line(os.environ.get(variable, ""), variable)
    try:
        return _one_line(read_text(file), option)
    except InputError as error:
        raise InputError(
            f"{option}: there is no such file, or it cannot be read; it takes a file, as others see a command line (or "
            f"set {variable})"
        ) from error


def _one_line(text: str, origin: str) -> str:
    if "\n" in text.strip():
        raise InputError(f"{origin}: it holds more than one line; give the value alone")
    return text.strip()

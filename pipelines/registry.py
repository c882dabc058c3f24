"""A look at a registry: whether an image is there, before pods wait for it in vain."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Literal

TIMEOUT_SECONDS = 5.0
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Registries that speak HTTP; every other one is asked by HTTPS, as the Docker engine does."""

Found = Literal["there", "missing"]


def registry_of(image: str) -> str:
    """Return the registry that a reference names; empty: none, so Docker Hub is meant, or a node's own store."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def look_up(image: str) -> tuple[Found | None, str]:
    """Ask an image's registry for it, without logging in.

    Args:
        image: ``REGISTRY/NAME:TAG`` or ``...@sha256:...``.

    Returns:
        What was found, or None and why it is not known.
    """
    registry = registry_of(image)
    if not registry:
        return None, "it names no registry"
    path, _, digest = image.removeprefix(f"{registry}/").partition("@")
    name, _, tag = path.partition(":")
    scheme = "http" if registry.rpartition(":")[0] in LOCAL or registry in LOCAL else "https"
    url = f"{scheme}://{registry}/v2/{name}/manifests/{digest or tag or 'latest'}"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": ", ".join(MANIFESTS)})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return "there", ""
    except urllib.error.HTTPError as error:
        return ("missing", "") if error.code == 404 else (None, f"{registry} answered {error.code} {error.reason}")
    except (OSError, ValueError):
        return None, f"{registry} cannot be reached from here"

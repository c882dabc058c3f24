"""The manifests: read from their files, and as kustomize renders them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from k8s.check import BASE, K8S
from k8s.documents import MISSING, kustomize, read_documents, render, unrendered
from k8s.schemas import crd_path

Documents = list[dict[str, Any]]


def unavailable(variable: str, reason: str) -> None:
    """Skip; where the thing is known to be there (CI says so by the variable), fail."""
    if os.environ.get(variable):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def crd() -> Path:
    """The training operator's CRD; it lies beside a checkout and is not part of it."""
    path = crd_path()
    if path is None:
        unavailable("SOCO_REQUIRE_CRDS", "the training operator's CRD is not here (SOCO_CRDS names its folder)")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], Documents]:
    """Renders a folder of k8s/, once; SOCO_REQUIRE_KUSTOMIZE makes it a failure if nothing can."""
    if kustomize() is None:
        unavailable("SOCO_REQUIRE_KUSTOMIZE", MISSING)
    known: dict[str, Documents] = {}

    def of(folder: str) -> Documents:
        if folder not in known:
            known[folder] = render(K8S / folder)
        return deepcopy(known[folder])

    return of


@pytest.fixture(scope="session")
def base() -> Documents:
    """The base as its files are; what is one in a file by an anchor is not one here."""
    documents: Documents = json.loads(json.dumps(unrendered(BASE)))
    return documents


@pytest.fixture
def job() -> dict[str, Any]:
    """k8s/pytorchjob-soco.yaml, to be changed."""
    (document,) = read_documents(K8S / "pytorchjob-soco.yaml")
    return deepcopy(document)

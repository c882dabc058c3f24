"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images for development; it lies beside a checkout and is not part of it.

    SOCO_SHARED_DATA names another place. Where SOCO_REQUIRE_SHARED_DATA is set, its absence is a failure.
    """
    folder = Path(os.environ.get("SOCO_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        reason = f"the development images are not at {folder} (SOCO_SHARED_DATA names another place)"
        if os.environ.get("SOCO_REQUIRE_SHARED_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder

"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from soco_core.engine.setup import share_cores

REPOSITORY = Path(__file__).resolve().parents[1]

share_cores()


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 store that lives in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a fresh, empty bucket; boto3 and child processes find its store through the environment."""
    from soco_core import storage

    for key, value in {
        "AWS_ENDPOINT_URL_S3": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SOCO_SCRATCH": str(tmp_path / "scratch"),
    }.items():
        monkeypatch.setenv(key, value)
    storage.s3_client.cache_clear()
    bucket = f"bucket-{uuid4().hex}"
    storage.s3_client().create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    storage.s3_client.cache_clear()

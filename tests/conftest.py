"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from soco_core.engine.setup import share_cores
from tests.faulty_store import FaultyStore, proxy_handler
from tests.services import ClusterMlflow, MlflowServer, PostgresServer, free_port, postgres_binaries

REPOSITORY = Path(__file__).resolve().parents[1]

share_cores()


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests and the processes that they start, unless those marked `gpu` are asked for.

    What they expect is what a CPU computes, and one GPU is not enough for several processes.
    """
    asked_for = config.option.markexpr
    if "gpu" not in asked_for or "not gpu" in asked_for:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


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


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The server of :func:`mlflow_server`, which takes seconds to start."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), free_port())
    yield server
    server.stop()


@pytest.fixture
def mlflow_server(mlflow_process: MlflowServer) -> Iterator[MlflowServer]:
    """A real MLflow server that a test may stop, start again and let hang; it runs when the test begins."""
    mlflow_process.start()
    yield mlflow_process
    if mlflow_process.process is not None:
        mlflow_process.go_on()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; SOCO_REQUIRE_POSTGRES makes its absence a failure."""
    if postgres_binaries() is None:
        reason = "PostgreSQL's programs are not installed (Debian's package postgresql)"
        if os.environ.get("SOCO_REQUIRE_POSTGRES"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Not pytest's folders, which are root's alone.
    with tempfile.TemporaryDirectory(prefix="soco-postgres-") as folder:
        server = PostgresServer(Path(folder), free_port(), f"of-the-database-{uuid4().hex}")
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def cluster_mlflow_process(
    postgres: PostgresServer, s3_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterMlflow]:
    """The server of :func:`cluster_mlflow`."""
    import boto3

    bucket = f"mlflow-{uuid4().hex}"
    access = {"aws_access_key_id": "server", "aws_secret_access_key": f"of-the-server-{uuid4().hex}"}
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **access).create_bucket(Bucket=bucket)
    server = ClusterMlflow(
        tmp_path_factory.mktemp("cluster-mlflow"),
        free_port(),
        artifacts=f"s3://{bucket}/artifacts",
        store=postgres.uri,
        secrets={
            "PGPASSWORD": postgres.password,
            "AWS_ENDPOINT_URL_S3": s3_server,
            "AWS_DEFAULT_REGION": "us-east-1",
            **{name.upper(): value for name, value in access.items()},
        },
    )
    yield server
    server.stop()


@pytest.fixture
def cluster_mlflow(cluster_mlflow_process: ClusterMlflow) -> ClusterMlflow:
    """The real command `mlflow server` with PostgreSQL and S3 behind it; it runs when the test begins."""
    cluster_mlflow_process.start()
    return cluster_mlflow_process


@pytest.fixture
def faulty_s3(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A fresh bucket of the `s3` store behind a proxy that counts requests and fails on demand.

    ``faulty_s3.uri`` is the bucket; ``faulty_s3.fail("a.jpg$", "drop")`` cuts the next GET of that key in mid-body,
    ``fail("$", 500, times=2)`` answers the next two GETs of anything with a 500, ``fail("^secret/", 403, times=-1)``
    refuses for good; ``faulty_s3.count("a.jpg$")`` says how many GETs came for it, failed ones too.
    """
    from soco_core import storage

    store = FaultyStore(s3, "")
    server = ThreadingHTTPServer(("127.0.0.1", 0), proxy_handler(store, urlsplit(s3_server).netloc))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.endpoint)
    storage.s3_client.cache_clear()
    yield store
    storage.s3_client.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured and recorded under the name ``shown``; other processes' tests included."""
    lines = [
        str(text)
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == "shown"
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)

"""Fixtures that every test may use."""

from __future__ import annotations

import http.client
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit
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


@dataclass(frozen=True)
class Request:
    """A request that reached the store."""

    method: str
    key: str
    """Key of the object, decoded; empty for the bucket itself (a listing)."""
    range: str | None
    """The header `Range`."""


@dataclass
class Fault:
    """What a :class:`FaultyStore` does to the requests that match, `times` times."""

    pattern: re.Pattern[str]
    kind: Literal["drop"] | int
    times: int
    method: str


@dataclass
class FaultyStore:
    """The `s3` store behind a proxy that counts requests and, on demand, fails.

    boto3 here and in child processes goes through it: ``AWS_ENDPOINT_URL_S3`` names it.
    """

    uri: str
    """The URI of a fresh, empty bucket."""
    endpoint: str
    """The proxy's URL."""
    requests: list[Request] = field(default_factory=list)
    """Every request that came, the failed ones too, in order. ``requests.clear()`` starts to count anew."""
    faults: list[Fault] = field(default_factory=list)

    def fail(self, key: str, kind: Literal["drop"] | int, times: int = 1, method: str = "GET") -> None:
        """Let the next requests for matching keys fail.

        Args:
            key: regular expression, searched for in the object's key; ``"$"`` matches every key.
            kind: ``drop`` lets the store do as it is told, and closes the connection in the middle of the answer's body
                (before the answer, unless it is a file or listing); a number is the HTTP status to answer with
                (403, 500, 503 ...), and the store hears nothing.
            times: how many requests fail; -1: all.
            method: GET, PUT, HEAD, POST or DELETE.
        """
        self.faults.append(Fault(re.compile(key), kind, times, method))

    def count(self, key: str = "", method: str = "GET") -> int:
        """Return how many requests with this method came for keys that match a regular expression."""
        return sum(r.method == method and re.search(key, r.key) is not None for r in self.requests)

    def note(self, request: Request) -> Literal["drop"] | int | None:
        """Count a request; return how it shall fail, or None."""
        self.requests.append(request)
        for fault in self.faults:
            if fault.times and fault.method == request.method and fault.pattern.search(request.key):
                fault.times -= 1
                return fault.kind
        return None


ERROR_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


def proxy_handler(store: FaultyStore, backend: str) -> type[BaseHTTPRequestHandler]:
    """Return a request handler that asks `backend` (host:port), unless the store shall fail."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.read_body()
            _, _, key = unquote(urlsplit(self.path).path).removeprefix("/").partition("/")
            with lock:
                fault = store.note(Request(self.command, key, self.headers.get("Range")))
            if isinstance(fault, int):
                code = ERROR_CODES.get(fault, "Error")
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked for</Message></Error>"
                self.answer(fault, [("Content-Type", "application/xml")], text.encode())
                return
            connection = http.client.HTTPConnection(backend, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"transfer-encoding", "expect"}}
            connection.request(self.command, self.path, body=body, headers={**headers, "Content-Length": len(body)})
            answer = connection.getresponse()
            self.answer(answer.status, answer.getheaders(), answer.read(), cut=fault == "drop")
            connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False) -> None:
            self.close_connection = cut
            if cut and (self.command != "GET" or status >= 300 or not body):
                return
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)

        def log_message(self, *_: object) -> None:
            """The tests look at `requests`."""

    return Handler


MLFLOW_PROGRAM = """
import os, sys
folder, port = sys.argv[1:]
os.environ.update({
    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
})
from mlflow.server import app, handlers
handlers.initialize_backend_stores(f"sqlite:///{folder}/mlflow.db", None, "mlflow-artifacts:/")
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(port), app, threaded=True)
"""
"""MLflow's own server without the processes around it, which take half a minute to start."""


@dataclass
class MlflowServer:
    """A real MLflow server in a process of its own, with a store that outlives it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What MLFLOW_TRACKING_URI is set to."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self.process is None:
            program = [sys.executable, "-c", MLFLOW_PROGRAM, str(self.folder), str(self.port)]
            with (self.folder / "server.log").open("ab") as log:
                self.process = subprocess.Popen(program, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        """End it; connections are refused from now on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """Let it accept connections and never answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End :meth:`hang`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The server of :func:`mlflow_server`, which takes seconds to start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), port)
    yield server
    server.stop()


@pytest.fixture
def mlflow_server(mlflow_process: MlflowServer) -> Iterator[MlflowServer]:
    """A real MLflow server that a test may stop, start again and let hang; it runs when the test begins."""
    mlflow_process.start()
    yield mlflow_process
    if mlflow_process.process is not None:
        mlflow_process.go_on()


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

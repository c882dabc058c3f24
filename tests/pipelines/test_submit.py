"""The look at an endpoint before anything is submitted, against real servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.submit import EndpointError, check_endpoint, endpoint
from soco_core.errors import SocoError

REPOSITORY = Path(__file__).resolve().parents[2]


class Server(BaseHTTPRequestHandler):
    """Answers as the first part of the path says; the rest is what the client asks for."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind = self.path.split("/")[1]
        if kind == "slow":
            time.sleep(8)
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/login/dex")
            self.end_headers()
            return
        self.send_response(int(kind) if kind.isdigit() else 200)
        self.end_headers()
        if kind == "trickle":
            for _ in range(80):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        self.wfile.write(b'{"apiServerReady": true}' if kind == "good" else b"<html>log in</html>")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.daemon_threads = True
        running.block_on_close = False
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_healthy_endpoint_passes(server: str) -> None:
    Server.asked.clear()
    check_endpoint(f"{server}/good")
    assert Server.asked == ["/good/apis/v2beta1/healthz"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("401", "answered 401 Unauthorized; log in first"),
        ("502", "answered 502 Bad Gateway"),
        ("page", "a page instead of JSON"),
        ("moved", "a page instead of JSON"),
        ("slow", "cannot be reached|no answer"),
        ("trickle", "no answer within 4 s"),
    ],
)
def test_anything_else_is_one_line_within_seconds(server: str, kind: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(EndpointError, match=words) as caught:
        check_endpoint(f"{server}/{kind}")
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{server}/{kind}: ")


def test_which_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SocoError, match="give --host"):
        endpoint(None)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "third:8080/")
    assert endpoint(None) == "http://third:8080"
    monkeypatch.setenv("KFP_ENDPOINT", "https://second")
    assert endpoint(None) == "https://second"
    assert endpoint("http://first/") == "http://first"


@pytest.mark.parametrize(("run_id", "link"), [("r1", "http://h/#/runs/details/r1"), (None, None)])
def test_a_run_without_an_id_is_no_run(monkeypatch: pytest.MonkeyPatch, run_id: str | None, link: str | None) -> None:
    kfp = pytest.importorskip("kfp")
    from pipelines.full_benchmark import build_pipeline
    from pipelines.proposals import ShardTasks
    from pipelines.shape import Shape
    from pipelines.submit import submit
    from pipelines.tasks import Tasks

    asked: dict[str, Any] = {}

    class Client:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def create_run_from_pipeline_package(self, package: str, **settings: Any) -> SimpleNamespace:
            asked.update(settings, yaml=Path(package).read_text())
            return SimpleNamespace(run_id=run_id)

    monkeypatch.setattr(kfp, "Client", Client)
    pipeline = build_pipeline(Shape(Tasks("i"), ShardTasks()))
    arguments = {"recipe": "demo", "output": "s3://b/o", "shards": 3}

    def start() -> str:
        return submit(pipeline, arguments, address="http://h", namespace="n", experiment="e", name="demo")

    if link is None:
        with pytest.raises(EndpointError, match="names no run"):
            start()
    else:
        assert start() == link
    assert "soco-full-benchmark" in asked.pop("yaml")
    assert asked == {
        "host": "http://h",
        "namespace": "n",
        "arguments": arguments,
        "run_name": "demo",
        "experiment_name": "e",
        "enable_caching": False,
    }


def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "pipelines" / "full_benchmark.py"), "--submit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_nobody_there() -> None:
    pytest.importorskip("kfp")
    began = time.monotonic()
    done = submit("--host", "http://localhost:1")
    assert time.monotonic() - began < 5
    assert re.fullmatch(r"error: http://localhost:1: cannot be reached \(.*refused\); .*\n", done.stderr)
    assert (done.returncode, done.stdout) == (2, "")


def test_endpoint_that_names_no_run(server: str) -> None:
    """Healthy, but its answers are no runs: kfp's client takes some of these for success."""
    pytest.importorskip("kfp")
    done = submit("--host", f"{server}/good", "--output", "s3://bucket/out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {server}/good: the run was not accepted")


def test_output_is_needed(server: str) -> None:
    pytest.importorskip("kfp")
    done = submit("--host", f"{server}/good")
    assert done.stderr == "error: --submit needs --output: an s3:// URI, or a path that every pod of the run mounts\n"
    assert done.returncode == 2

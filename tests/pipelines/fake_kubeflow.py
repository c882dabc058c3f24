"""A server that answers as Kubeflow Pipelines does, as Kubernetes does about claims, and as a registry does.

The first part of a path says how: ``http://host:port/ok`` is an endpoint as it should be.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = b"<html>log in</html>"
TOKEN = "s3cr3t-token"
RUN = "0b1f-run"


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeKubeflow:
    """What the server answers, and what it was asked."""

    address: str = ""
    requests: list[Request] = field(default_factory=list)
    states: list[Any] = field(default_factory=lambda: ["SUCCEEDED"])
    """Of the run, one for each time that it is asked for; the last one stays. A number is an HTTP status."""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    """Details of the run's tasks."""
    objects: set[str] = field(default_factory=set)
    """Names of the claims, secrets and service accounts that the cluster has."""
    forbidden: set[str] = field(default_factory=set)
    """Names of those that one may not read."""

    def sent(self, method: str, path: str) -> list[Request]:
        """Return the requests of a method whose path ends so."""
        return [each for each in self.requests if each.method == method and each.path.partition("?")[0].endswith(path)]

    def run(self) -> dict[str, Any] | int:
        """Return the run as it is now."""
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, int):
            return state
        return {"run_id": RUN, "state": state, "run_details": {"task_details": self.tasks}}


@contextmanager
def serving() -> Iterator[FakeKubeflow]:
    """Run the server while the block lasts."""
    fake = FakeKubeflow()

    class Handler(_Handler):
        kubeflow = fake

    class Server(ThreadingHTTPServer):
        def handle_error(self, *arguments: Any) -> None:
            """A client that has waited long enough is gone; that is no news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        fake.address = f"http://127.0.0.1:{server.server_port}"
        yield fake
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    kubeflow: FakeKubeflow

    def do_GET(self) -> None:
        self._note()
        kind, _, path = self.path.removeprefix("/").partition("/")
        if kind == "v2":
            self._registry(path)
        elif kind == "api":
            self._kubernetes(path)
        else:
            self._pipelines(kind, path.partition("?")[0])

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""

    def _note(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.kubeflow.requests.append(Request(self.command, self.path, headers, body))

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "text/html" if content == PAGE else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _pipelines(self, kind: str, path: str) -> None:
        match kind:
            case "slow":
                time.sleep(8)
                self._answer({})
            case "trickle":
                self._trickle()
            case "moved":
                self._answer(PAGE, 302, Location="/login/dex?state=abc")
            case "page":
                self._answer(PAGE)
            case "locked" if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(PAGE, 401)
            case "401" | "502":
                self._answer(PAGE, int(kind))
            case _:
                self._healthy(kind, path.removeprefix("apis/v2beta1/"))

    def _healthy(self, kind: str, path: str) -> None:
        if path == "healthz":
            self._answer({"tag_name": "2.5.1" if kind == "old" else "2.15.0", "multi_user": kind == "users"})
        elif kind == "forgetful":  # healthy, and then only a page
            self._answer(PAGE)
        elif kind == "stuck":
            time.sleep(8)
        elif path == "experiments":
            experiment = {"experiment_id": "e1", "display_name": "soco"}
            self._answer({"experiments": []} if self.command == "GET" else experiment)
        elif path == "runs" and kind == "refuses":
            self._answer({"code": 3, "message": "Invalid input error: no such\nservice account"}, 400)
        elif path == "runs":
            self._answer({"run_id": RUN})
        else:
            run = self.kubeflow.run()
            self._answer(PAGE, run) if isinstance(run, int) else self._answer(run)

    def _trickle(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(80):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def _registry(self, path: str) -> None:
        status = 200 if path.startswith("soco/manifests/") else 401 if path.startswith("private/") else 404
        self._answer(b"", status)

    def _kubernetes(self, path: str) -> None:
        *_, namespace, kind, name = path.split("/")
        if "/proxy/" in path:  # Kubeflow Pipelines through Kubernetes
            self._healthy("ok", path.rpartition("/apis/v2beta1/")[2].partition("?")[0])
        elif name in self.kubeflow.forbidden:
            self._answer({"message": "no"}, 403)
        elif name in self.kubeflow.objects:
            self._answer({"kind": kind, "metadata": {"name": name, "namespace": namespace}})
        else:
            self._answer({"message": f"{kind} {name!r} not found"}, 404)

"""What the fake Kubernetes answers: its paths, its streams, and what goes wrong with them."""

from __future__ import annotations

import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.launch.fake_kubernetes import FakeKubernetes, Fault

NAMESPACE = "team"
TOKEN = "token-of-the-tests"
JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
CORE = f"/api/v1/namespaces/{NAMESPACE}"


def handler(fake: FakeKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _answer(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            fake.requests.append((self.command, url.path, query))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._error(401, "Unauthorized")
                return
            fault = self._fault(url.path)
            if fault is not None and not fault.done:
                self._error(fault.status, "planned by the test", fault.headers)
                return
            with fake.changed:
                status, answer = self._handle(url.path, query, body)
            if fault is not None:
                self._error(fault.status, "the answer was lost", fault.headers)
            elif answer is not None:
                self._send(status, answer)

        def _fault(self, path: str) -> Fault | None:
            for fault in fake.faults:
                if fault.times > 0 and fault.method == self.command and re.fullmatch(fault.path, path):
                    fault.times -= 1
                    return fault
            return None

        def _handle(self, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:  # noqa: PLR0911
            if path == JOBS and self.command == "POST":
                if body["metadata"]["name"] in fake.jobs:
                    return self._error(409, f"pytorchjobs {body['metadata']['name']!r} already exists")
                return 201, fake.put(body)
            if path == JOBS and query.get("watch"):
                self._watch(query)
                return 0, None
            if path.startswith(f"{JOBS}/"):
                return self._job(path.removeprefix(f"{JOBS}/"), body)
            if path == f"{CORE}/pods":
                key, _, value = query["labelSelector"].partition("=")
                return 200, {
                    "items": [pod for pod in fake.pods.values() if pod["metadata"]["labels"].get(key) == value]
                }
            if path == f"{CORE}/events":
                name = query["fieldSelector"].removeprefix("involvedObject.name=")
                return 200, {"items": [event for event in fake.events if event["involvedObject"]["name"] == name]}
            found = re.fullmatch(rf"{CORE}/pods/([^/]+)(/log)?", path)
            if found is None or found[1] not in fake.pods:
                return self._error(404, f"{path} not found")
            if found[2]:
                self._log(found[1], query)
                return 0, None
            return 200, fake.pods[found[1]]

        def _job(self, name: str, body: Any) -> tuple[int, Any]:
            job = fake.jobs.get(name)
            if job is None:
                return self._error(404, f"pytorchjobs.kubeflow.org {name!r} not found")
            if self.command == "PATCH":
                assert self.headers["Content-Type"] == "application/merge-patch+json"
                for key, value in body["metadata"].items():
                    if isinstance(value, dict):
                        job["metadata"].setdefault(key, {}).update(value)
                    else:
                        job["metadata"][key] = value
                fake.record("MODIFIED", job)
            if self.command == "DELETE":
                if body["preconditions"]["uid"] != job["metadata"]["uid"]:
                    return self._error(409, "the uid in the precondition does not match")
                fake.remove(name)
                return 200, {"kind": "Status", "status": "Success"}
            return 200, job

        def _watch(self, query: dict[str, str]) -> None:
            name = query["fieldSelector"].removeprefix("metadata.name=")
            since, limit = int(query["resourceVersion"]), time.monotonic() + int(query["timeoutSeconds"])
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            how = fake.expired_watches.popleft() if fake.expired_watches else ""
            if how == "status":
                self._error(410, "too old resource version")
                return
            cut = not how and fake.cut_watches > 0
            fake.cut_watches -= cut
            self._begin_stream()
            if how == "event":
                self._chunk(json.dumps({"type": "ERROR", "object": gone}) + "\n")
            if cut:
                self._chunk('{"type": "MODIFIED", "obj')
                self._cut()
                return
            while not how and time.monotonic() < limit and fake.up:
                for version, kind, obj in list(fake.history):
                    if version > since and obj["metadata"]["name"] == name:
                        since = version
                        self._chunk(json.dumps({"type": kind, "object": obj}) + "\n")
                fake.changed.wait(0.05)
            self._chunk("")

        def _log(self, pod: str, query: dict[str, str]) -> None:
            assert query["timestamps"] == "true"
            assert query["container"] == "pytorch"
            lives, uid = fake.lives[pod], fake.pods[pod]["metadata"]["uid"]
            if query.get("previous"):
                if len(lives) < 2:
                    self._error(400, "previous terminated container not found")
                    return
                lines = lives[-2]
            else:
                lines = lives[-1]
            since = query.get("sinceTime", "").removesuffix("Z")
            left = fake.cut_logs.popleft() if fake.cut_logs else None
            self._begin_stream()
            sent = max(0, len(lines) - int(query["tailLines"])) if "tailLines" in query else 0
            while True:
                ready = [f"{at} {text}\n" for at, text in lines[sent:] if at[:19] >= since]
                sent = len(lines)
                for line in ready:
                    if left is not None and len(line) > left:
                        self._chunk(line[:left])
                        if fake.cuts_politely:
                            self._chunk("")
                        else:
                            self._cut()
                        return
                    left = None if left is None else left - len(line)
                    self._chunk(line)
                current = fake.pods.get(pod)
                alive = (
                    query["follow"] == "true"
                    and current is not None
                    and current["metadata"]["uid"] == uid
                    and lines is fake.lives[pod][-1]
                    and "running" in current["status"]["containerStatuses"][0]["state"]
                )
                if not alive or not fake.up:
                    break
                fake.changed.wait(0.05)
            self._chunk("")

        def _begin_stream(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def _chunk(self, text: str) -> None:
            data = text.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _error(self, code: int, message: str, headers: dict[str, str] | None = None) -> tuple[int, None]:
            self._send(code, {"kind": "Status", "code": code, "message": message}, headers)
            return code, None

        def _send(self, code: int, answer: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for key, value in (headers or {}).items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

    return Handler

"""An HTTP server that answers as the Kubernetes API does: jobs, pods, events, logs and watches, in memory.

What a test plans goes wrong: answers with an error, watches and logs that are cut, a server that is away. What the
training operator and the kubelet would do, a test does itself, in a thread of its own.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from tests.launch.fake_api import NAMESPACE, TOKEN, handler

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

Object = dict[str, Any]


@dataclass
class Fault:
    """What happens to the next requests of one kind, instead of an answer."""

    method: str
    path: str
    """Regular expression."""
    status: int
    times: int
    headers: dict[str, str]
    done: bool
    """Whether the request takes effect all the same, and only its answer is lost."""


class FakeKubernetes:
    """The server and its state; `operate` is called in a thread for each job that is created."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.events: list[Object] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self.cut_watches = 0
        """So many watches end in the middle."""
        self.expired_watches: deque[str] = deque()
        """How the next watches are told that their version is too old: `status` or `event`."""
        self.cut_logs: deque[int] = deque()
        """After how many bytes the next logs are cut."""
        self.cuts_politely = False
        """Whether a log that is cut looks as if it had ended, as a proxy may do it."""
        self.operate: Callable[[str], None] | None = None
        self.failures: list[BaseException] = []
        self._version = 100
        self.history: list[tuple[int, str, Object]] = []
        self.lives: dict[str, list[list[tuple[str, str]]]] = {}
        self.clock = BEGIN
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.port = 0
        self.start()

    # The server

    def start(self) -> None:
        outer = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                outer._connections.add(connection)
                return connection, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away

        self.server = Server(("127.0.0.1", self.port), handler(self))
        self.port = self.server.server_address[1]
        self.up = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be away: connections are cut, new ones refused; the state stays."""
        self.up = False
        self.server.shutdown()
        self.server.server_close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(10)
        assert not self.failures, self.failures

    def kubeconfig(self) -> str:
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                "users": [{"name": "tester", "user": {"token": TOKEN}}],
                "contexts": [
                    {"name": "fake", "context": {"cluster": "fake", "user": "tester", "namespace": NAMESPACE}}
                ],
                "current-context": "fake",
            }
        )

    def fail(self, method: str, path: str, status: int, times: int = 1, *, done: bool = False, **headers: str) -> None:
        self.faults.append(Fault(method, path, status, times, headers, done))

    def asked(self, method: str, path: str) -> list[dict[str, str]]:
        """The queries of all requests of one kind."""
        return [query for verb, place, query in self.requests if verb == method and re.fullmatch(path, place)]

    # What the operator and the kubelet do

    def condition(self, job: str, kind: str, message: str = "", reason: str = "") -> None:
        """Set a condition of a job, as the operator does: of those that exclude each other the last one is true."""
        with self.changed:
            conditions = self.jobs[job].setdefault("status", {}).setdefault("conditions", [])
            for other in conditions:
                if other["type"] != "Created":
                    other["status"] = "False"
            conditions.append(
                {
                    "type": kind,
                    "status": "True",
                    "reason": reason or f"PyTorchJob{kind}",
                    "message": message or f"PyTorchJob {job} is {kind.lower()}.",
                    "lastTransitionTime": self._now(),
                }
            )
            self.record("MODIFIED", self.jobs[job])

    def pod(self, job: str, role: str = "master", index: int = 0, **status: Any) -> str:
        """Put a pod of a job there, in place of one of the same name; return its name."""
        name = f"{job}-{role}-{index}"
        labels = {"training.kubeflow.org/job-name": job, "training.kubeflow.org/replica-type": role}
        with self.changed:
            self.pods[name] = {
                "metadata": {"name": name, "uid": uuid4().hex, "labels": labels},
                "spec": {"nodeName": "node-1"} if status.get("phase") == "Running" else {},
                "status": {"phase": "Pending", **status},
            }
            self.lives[name] = [[]]
            self.touch(job)
        return name

    def running(self, job: str, role: str = "master", index: int = 0) -> str:
        state = {"name": "pytorch", "restartCount": 0, "state": {"running": {}}}
        return self.pod(job, role, index, phase="Running", containerStatuses=[state])

    def ended(self, pod: str, code: int, reason: str = "", phase: str = "") -> None:
        """End the pod's container."""
        with self.changed:
            self._container(pod)["state"] = {"terminated": self._end(code, reason)}
            self.pods[pod]["status"]["phase"] = phase or ("Failed" if code else "Succeeded")
            self.touch(self._job_of(pod))

    def restarted(self, pod: str, code: int, reason: str = "") -> None:
        """Start the pod's container again, in its place."""
        with self.changed:
            container = self._container(pod)
            container["lastState"] = {"terminated": self._end(code, reason)}
            container["state"] = {"running": {}}
            container["restartCount"] += 1
            self.lives[pod].append([])
            self.touch(self._job_of(pod))

    def lose(self, pod: str, reason: str = "", message: str = "") -> None:
        """Remove a pod, after its reason was to be seen if there is one."""
        with self.changed:
            if reason:
                self.pods[pod]["status"] |= {"phase": "Failed", "reason": reason, "message": message}
            else:
                del self.pods[pod]
            self.touch(pod.rsplit("-", 2)[0])

    def event(self, about: str, reason: str, message: str, kind: str = "Warning") -> None:
        with self.changed:
            self.events.append(
                {
                    "involvedObject": {"name": about},
                    "type": kind,
                    "reason": reason,
                    "message": message,
                    "lastTimestamp": self._now(),
                }
            )

    def log(self, pod: str, *lines: str, same_time: bool = False) -> None:
        """Write lines to the log of a pod's container."""
        with self.changed:
            for line in lines:
                at = self._now() if not same_time else self._stamp()
                self.lives[pod][-1].append((at, line))
            self.changed.notify_all()

    def remove(self, job: str) -> None:
        with self.changed:
            self.record("DELETED", self.jobs.pop(job))
            for name in [name for name in self.pods if self._job_of(name) == job]:
                del self.pods[name]

    def wait_until(self, true: Callable[[], Any], seconds: float = 10) -> None:
        limit = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < limit, "it never came to this"
            time.sleep(0.01)

    def put(self, job: Object) -> Object:
        """Create a job; the API's answer."""
        with self.changed:
            name = job["metadata"]["name"]
            job["metadata"] |= {"uid": uuid4().hex, "creationTimestamp": self._now(), "namespace": NAMESPACE}
            self.jobs[name] = job
            self.record("ADDED", job)
        if self.operate is not None:
            thread = threading.Thread(target=self._operate, args=(name,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return job

    def _operate(self, name: str) -> None:
        assert self.operate is not None
        try:
            self.operate(name)
        except BaseException as error:
            self.failures.append(error)

    def _container(self, pod: str) -> Object:
        return self.pods[pod]["status"]["containerStatuses"][0]  # type: ignore[no-any-return]

    def _job_of(self, pod: str) -> str:
        return str(self.pods[pod]["metadata"]["labels"]["training.kubeflow.org/job-name"])

    def _end(self, code: int, reason: str) -> Object:
        return {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "finishedAt": self._now()}

    def touch(self, job: str) -> None:
        """The operator counts pods in the job's status, so that a watch of the job hears of them."""
        if job in self.jobs:
            self.record("MODIFIED", self.jobs[job])

    def record(self, kind: str, obj: Object) -> None:
        with self.changed:
            self._version += 1
            obj["metadata"]["resourceVersion"] = str(self._version)
            self.history.append((self._version, kind, json.loads(json.dumps(obj))))
            self.changed.notify_all()

    def _now(self) -> str:
        self.clock += timedelta(milliseconds=300)
        return self._stamp()

    def _stamp(self) -> str:
        return self.clock.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"

"""The Kubernetes API as the launcher uses it: through its errors and restarts, and plain dictionaries as answers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from soco_core.console import say
from soco_core.errors import InputError, SocoError
from soco_core.launch.job import CONTAINER, GROUP, PLURAL, VERSION
from soco_core.launch.waits import Waits

T = TypeVar("T")

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
JOB_OF_POD = "training.kubeflow.org/job-name"
PASSING = frozenset({408, 429, 500, 502, 503, 504})
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE = 401, 403, 404, 409, 410


class ClusterError(SocoError):
    """The Kubernetes API refuses, or cannot be reached."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
        """Of HTTP; 0 if there was no answer."""


class Cluster:
    """One namespace of a cluster.

    Args:
        client: a `kubernetes.client.ApiClient`.
        namespace: where the job is.
        waits: how long to wait.
    """

    def __init__(self, client: Any, namespace: str, waits: Waits) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.client = client
        self.namespace = namespace
        self.waits = waits
        self._core = CoreV1Api(client)
        self._custom = CustomObjectsApi(client)
        self._where = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}
        self._answered = False
        self._cuts = 0

    def create(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Create a job; None if one of that name exists (it may be ours: an answer can get lost)."""
        try:
            return self._ask(
                f"create the PyTorchJob {job['metadata']['name']}",
                lambda: self._custom.create_namespaced_custom_object(
                    **self._where, body=job, _request_timeout=self.waits.request
                ),
            )
        except ClusterError as error:
            if error.status == CONFLICT:
                return None
            if error.status == NOT_FOUND:
                raise ClusterError(
                    f"{error}; is Kubeflow's training operator (PyTorchJob, {GROUP}/{VERSION}) installed, and does the "
                    f"namespace {self.namespace} exist?",
                    NOT_FOUND,
                ) from error
            raise

    def job(self, name: str, patience: float | None = None) -> dict[str, Any] | None:
        """Return a job; None if there is none."""
        return self._found(
            f"read the PyTorchJob {name}",
            lambda: self._custom.get_namespaced_custom_object(
                **self._where, name=name, _request_timeout=self.waits.request
            ),
            patience,
        )

    def patch(self, name: str, changes: dict[str, Any]) -> dict[str, Any] | None:
        """Merge changes into a job; None if there is none."""
        return self._found(
            f"change the PyTorchJob {name}",
            lambda: self._custom.patch_namespaced_custom_object(
                **self._where, name=name, body=changes, _request_timeout=self.waits.request
            ),
        )

    def delete(self, job: dict[str, Any], patience: float) -> None:
        """Delete this very job, with its pods; it is no error if it is gone, or another one has its name."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            self._found(
                f"delete the PyTorchJob {name}",
                lambda: self._custom.delete_namespaced_custom_object(
                    **self._where, name=name, body=options, _request_timeout=self.waits.request
                ),
                patience,
            )
        except ClusterError as error:
            if error.status != CONFLICT:
                raise

    def wait_for_change(self, job: dict[str, Any]) -> None:
        """Watch a job from the version that is known until it changes, for a turn at the longest.

        A watch that is cut, or whose version is too old to go on from, ends the wait; read the job then.
        """
        from kubernetes.watch import Watch

        seconds, began = self.waits.turn, time.monotonic()
        try:
            events = Watch().stream(
                self._custom.list_namespaced_custom_object,
                **self._where,
                field_selector=f"metadata.name={job['metadata']['name']}",
                resource_version=job["metadata"]["resourceVersion"],
                timeout_seconds=max(1, round(seconds)),
                _request_timeout=(self.waits.request, seconds + self.waits.request),
            )
            for _ in events:
                self._cuts = 0
                return
        except Exception as error:
            if getattr(error, "status", 0) != GONE and self._passing(error) is None:
                self._refuse(f"watch the PyTorchJob {job['metadata']['name']}", error)
        if time.monotonic() - began < seconds / 2:
            # Not again as fast as it is cut.
            time.sleep(min(seconds, self.waits.before_retry(self._cuts)))
            self._cuts += 1

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Return the pods of a job, by name."""
        answer = self._read(
            f"list the pods of {job}",
            lambda: self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{JOB_OF_POD}={job}",
                _preload_content=False,
                _request_timeout=self.waits.request,
            ),
        )
        return sorted(answer["items"], key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, name: str) -> dict[str, Any] | None:
        """Return a pod; None if there is none, or it may not be read."""
        try:
            return self._read(
                f"read the pod {name}",
                lambda: self._core.read_namespaced_pod(
                    name, self.namespace, _preload_content=False, _request_timeout=self.waits.request
                ),
            )
        except ClusterError as error:
            if error.status in {NOT_FOUND, FORBIDDEN}:
                return None
            raise

    def warnings(self, name: str) -> list[str]:
        """Return what went wrong with a pod or a job, by its events, the newest last; none if they may not be read."""
        try:
            answer = self._read(
                f"list the events of {name}",
                lambda: self._core.list_namespaced_event(
                    self.namespace,
                    field_selector=f"involvedObject.name={name}",
                    _preload_content=False,
                    _request_timeout=self.waits.request,
                ),
            )
        except ClusterError as error:
            if error.status == FORBIDDEN:
                return []
            raise
        events = [event for event in answer["items"] if event.get("type") == "Warning"]
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return [f"{event.get('reason', '')}: {' '.join(event.get('message', '').split())}" for event in events]

    def open_log(self, pod: str, *, follow: bool, since: str = "", previous: bool = False, tail: int = 0) -> Any:
        """Open the log of a pod's container, every line after its time; one attempt.

        Args:
            pod: name of the pod.
            follow: stay and wait for more.
            since: time of RFC 3339 from which on.
            previous: of the container's last life.
            tail: only so many lines, from the end; 0: all.

        Returns:
            A response of urllib3.
        """
        # The client's own method knows no sinceTime.
        query = [("container", CONTAINER), ("timestamps", "true"), ("follow", str(follow).lower())]
        query += [("sinceTime", since)] if since else []
        query += [("previous", "true")] if previous else []
        query += [("tailLines", str(tail))] if tail else []
        return self.client.call_api(
            "/api/v1/namespaces/{namespace}/pods/{name}/log",
            "GET",
            path_params={"namespace": self.namespace, "name": pod},
            query_params=query,
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=(self.waits.request, self.waits.quiet_log if follow else self.waits.request),
        )

    def _found(self, what: str, call: Callable[[], T], patience: float | None = None) -> T | None:
        try:
            return self._ask(what, call, patience)
        except ClusterError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _read(self, what: str, call: Callable[[], Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask(what, lambda: json.loads(call().data))
        return answer

    def _ask(self, what: str, call: Callable[[], T], patience: float | None = None) -> T:
        """Ask the API, again and again while it is away.

        Raises:
            ClusterError: it refuses, or is away for longer than the patience.
        """
        began, attempt = time.monotonic(), 0
        while True:
            try:
                answer = call()
            except Exception as error:
                trouble = self._passing(error)
                if trouble is None:
                    self._refuse(what, error)
                allowed = patience or (self.waits.patience if self._answered else self.waits.unanswered)
                pause = max(self.waits.before_retry(attempt), min(_retry_after(error), self.waits.longest_retry))
                if time.monotonic() - began + pause > allowed:
                    raise ClusterError(
                        f"cannot {what}: the Kubernetes API at {self.client.configuration.host} is away ({trouble}); "
                        "run this again once it answers"
                    ) from error
                if attempt == 0:
                    say(f"warning: the Kubernetes API does not answer ({trouble}); trying again")
                attempt += 1
                time.sleep(pause)
            else:
                self._answered = True
                if attempt:
                    say(f"the Kubernetes API answers again, after {time.monotonic() - began:.0f} s")
                return answer

    def _passing(self, error: Exception) -> str | None:
        """Say what is wrong with an API that may mend itself; None if it will not."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        if isinstance(error, ApiException):
            # A token that is just being renewed is refused for a moment.
            passing = error.status in PASSING or (error.status == UNAUTHORIZED and self._answered)
            return f"HTTP {error.status} {error.reason}" if passing else None
        if isinstance(error, HTTPError | OSError | json.JSONDecodeError):
            return " ".join(str(error).split())[:200] or type(error).__name__
        return None

    def _refuse(self, what: str, error: Exception) -> NoReturn:
        from kubernetes.client import ApiException

        if not isinstance(error, ApiException):
            raise error
        line = f"cannot {what} in the namespace {self.namespace}: {_message(error)}"
        if error.status == FORBIDDEN:
            line += "; give its service account a role that allows it"
        elif error.status == UNAUTHORIZED:
            line += "; log in to the cluster again, or renew the kubeconfig"
        raise ClusterError(line, int(error.status or 0)) from error


def connect(namespace: str, waits: Waits) -> Cluster:
    """Connect as the pod's service account, or else by the kubeconfig (``KUBECONFIG``, ``~/.kube/config``).

    Args:
        namespace: where the job is to be; empty: the pod's own, or that of the kubeconfig's context.
        waits: how long to wait.

    Raises:
        InputError: the package kubernetes is missing, or neither is there.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise InputError(
            "a PyTorchJob is launched by the package kubernetes, which is missing; pip install 'soco[cluster]', or "
            "leave the parameter `job` empty"
        ) from error
    settings = client.Configuration()
    settings.retries = False  # urllib3 would try again at once
    try:
        if in_cluster():
            config.load_incluster_config(client_configuration=settings)
            namespace = namespace or OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        else:
            file = os.environ.get("KUBECONFIG") or None
            config.load_kube_config(config_file=file, client_configuration=settings, persist_config=False)
            _, context = config.list_kube_config_contexts(config_file=file)
            namespace = namespace or context["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise InputError(
            f"no access to a Kubernetes cluster ({' '.join(str(error).split())}); run this in a pod with a service "
            "account, name a kubeconfig in KUBECONFIG, or leave the parameter `job` empty"
        ) from error
    return Cluster(client.ApiClient(settings), namespace, waits)


def in_cluster() -> bool:
    """Tell whether this process runs in a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def whole_lines(response: Any) -> Iterator[str]:
    """Yield the lines of a response as they come, without what a cut leaves of the last one."""
    rest = b""
    for part in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + part).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def _message(error: Any) -> str:
    try:
        text = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        text = error.reason
    return f"HTTP {error.status}, {' '.join(str(text).split())[:400]}"


def _retry_after(error: Exception) -> float:
    headers = getattr(error, "headers", None) or {}
    value = str(headers.get("Retry-After", ""))
    return float(value) if value.isdecimal() else 0.0

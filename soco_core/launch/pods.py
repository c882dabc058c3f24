"""What the pods of a job tell: why they wait, how they ended, whether one was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from soco_core.console import say
from soco_core.launch.job import CONTAINER

Pod = dict[str, Any]
ROLE = "training.kubeflow.org/replica-type"
GRAVE = ("OOMKilled", "Evicted", "Preempted", "NodeLost", "NodeShutdown", "Terminated", "DeadlineExceeded")
"""Reasons that are a cause, where an exit code is often only the consequence of another pod's end."""


@dataclass(frozen=True)
class End:
    """How a container, or its pod, ended."""

    pod: str
    cause: str
    """`exit code 137 (OOMKilled)`, or the reason of an eviction with its message."""
    reason: str
    at: str
    """Time of the end; empty if it is not known."""

    @property
    def rank(self) -> tuple[bool, str]:
        """Sorts the end that is most likely the cause of the others first."""
        return self.reason not in GRAVE, self.at or "9"


def is_master(pod: Pod) -> bool:
    """Tell whether the pod is the job's first."""
    return str(pod["metadata"].get("labels", {}).get(ROLE, "")).lower() == "master"


def restarts(pod: Pod) -> int:
    """Return how often the pod's container was started again."""
    return int(_container(pod).get("restartCount", 0))


def has_begun(pod: Pod) -> bool:
    """Tell whether the pod's container has a log."""
    state = _container(pod)
    return bool(state.get("state", {}).keys() & {"running", "terminated"}) or bool(state.get("lastState"))


def is_waiting(pod: Pod) -> bool:
    """Tell whether the pod has no node, or its container no image."""
    return bool(pod.get("status", {}).get("phase", "Pending") == "Pending")


def why_waiting(pod: Pod, warnings: Callable[[], list[str]]) -> str:
    """Say why a pod waits.

    Args:
        pod: the pod.
        warnings: returns those among its events.
    """
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in {None, "PodInitializing", "ContainerCreating"}:
            return _said(waiting)
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False" and condition.get("message"):
            # Kubernetes calls the event FailedScheduling, and operators look for that word.
            return f"FailedScheduling: {' '.join(condition['message'].split())}"
    if found := warnings():
        return found[-1]
    return "its container is being prepared" if status.get("conditions") else "not scheduled yet"


def ends(pod: Pod) -> list[End]:
    """Return how the pod, or the lives of its container, ended with an error."""
    name, status = str(pod["metadata"]["name"]), pod.get("status", {})
    found = []
    if status.get("phase") == "Failed" and status.get("reason"):
        found.append(End(name, _said(status), status["reason"], ""))
    container = _container(pod)
    for state in (container.get("state", {}), container.get("lastState", {})):
        ended = state.get("terminated")
        if ended and ended.get("exitCode", 0) != 0:
            reason = ended.get("reason", "Error")
            said = f" ({reason})" if reason != "Error" else ""
            found.append(End(name, f"exit code {ended['exitCode']}{said}", reason, ended.get("finishedAt") or ""))
    return found


class PodWatch:
    """Follows a job's pods from one look to the next, and says what happened to them."""

    def __init__(self) -> None:
        self.ends: dict[str, End] = {}
        """How each pod last ended, by its name."""
        self._known: dict[str, Pod] = {}

    def look(self, pods: list[Pod]) -> None:
        """Compare the pods with those of the last look."""
        now = {str(pod["metadata"]["name"]): pod for pod in pods}
        for name, former in self._known.items():
            pod = now.get(name)
            if pod is None or pod["metadata"]["uid"] != former["metadata"]["uid"]:
                cause = self.ends.get(name)
                say(f"pod {name} is lost{f' ({cause.cause})' if cause else ''}; the operator starts it again")
            elif restarts(pod) > restarts(former):
                self.note(pod)
                cause = self.ends.get(name)
                how = f" with {cause.cause}" if cause else ""
                say(f"pod {name} ended{how}; started again ({restarts(pod)}), it goes on from the last checkpoint")
        for name, pod in now.items():
            self.note(pod)
            known = self._known.get(name)
            phase = pod.get("status", {}).get("phase")
            if known is None or known["metadata"]["uid"] != pod["metadata"]["uid"] or _phase(known) != phase:
                node = pod.get("spec", {}).get("nodeName")
                say(f"pod {name}: {phase}{f' on {node}' if node else ''}")
        self._known = now

    def cause(self) -> End | None:
        """Return the end that is most likely the cause of the job's."""
        return min(self.ends.values(), key=lambda end: end.rank, default=None)

    def note(self, pod: Pod) -> None:
        """Keep how a pod ended, if it did with an error."""
        found = ends(pod)
        if found:
            self.ends[found[0].pod] = min(found, key=lambda end: end.rank)


def _phase(pod: Pod) -> str | None:
    phase: str | None = pod.get("status", {}).get("phase")
    return phase


def _container(pod: Pod) -> dict[str, Any]:
    for status in pod.get("status", {}).get("containerStatuses", []):
        if status.get("name") == CONTAINER:
            return dict(status)
    return {}


def _said(what: dict[str, Any]) -> str:
    message = " ".join(str(what.get("message", "")).split())
    return f"{what['reason']}{f': {message}' if message else ''}"

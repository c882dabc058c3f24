"""A stage's work as a PyTorchJob: started or found again, watched to its end, ended with who launched it."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from soco_core.console import say
from soco_core.errors import InputError, InterruptedStageError, SocoError
from soco_core.launch.cluster import Cluster, connect
from soco_core.launch.job import (
    LAUNCHER_MARK,
    RESULT_LABEL,
    RESULT_PLACE,
    SETTINGS_MARK,
    Work,
    build_job,
    job_name,
    owner_reference,
)
from soco_core.launch.log import LogStream, last_lines
from soco_core.launch.origin import launcher, own_image, own_pod
from soco_core.launch.pods import PodWatch, has_begun, is_master, is_waiting, why_waiting
from soco_core.launch.settings import JobSettings
from soco_core.launch.waits import Waits

Job = dict[str, Any]

ATTEMPTS = 100
QUOTED_LINES = 3
QUOTED_CHARACTERS = 600


def run_job(settings: JobSettings, work: Work, waits: Waits | None = None) -> None:
    """Compute a work in a PyTorchJob, and return when that has succeeded.

    A job for the same result that runs already is found by its name, and watched instead. SIGINT (and SIGTERM,
    where it acts as that) deletes the job.

    Args:
        settings: of the job; at least one node.
        work: what its pods compute.
        waits: how long to wait.

    Raises:
        InputError: there is no access to a cluster, or no image is named.
        ClusterError: the Kubernetes API refuses, or is away for too long.
        InterruptedStageError: a signal came; the job is deleted.
        SocoError: the job failed, was deleted by others, or waited for too long.
    """
    _JobRun(connect(settings.namespace, waits or Waits()), settings, work).run()


class _JobRun:
    """One job, from its start to its end."""

    def __init__(self, cluster: Cluster, settings: JobSettings, work: Work) -> None:
        self.cluster = cluster
        self.work = work
        own = own_pod(cluster)
        self.launcher = launcher(own)
        if not settings.image:
            settings = settings.model_copy(update={"image": own_image(own)})
        self.settings = settings.model_copy(update={"namespace": cluster.namespace})
        self.log = LogStream(cluster, "master: ")
        self.pods = PodWatch()
        self.patience = _Patience(self.settings)
        self.job: Job = {}
        self._reported: set[tuple[str, str]] = set()

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])

    def run(self) -> None:
        try:
            self.job = self._start()
            self._watch()
        except KeyboardInterrupt as stop:
            raise InterruptedStageError(self._stop()) from stop

    def _start(self) -> Job:
        """Create the job, or find the one that an earlier attempt of this step created."""
        for attempt in range(1, ATTEMPTS):
            name = job_name(self.work, attempt)
            wanted = build_job(self.settings, self.work, name=name, launcher=self.launcher)
            # From here on a signal must find it, also if the answer is still under way.
            self.job = wanted
            created, found = self._create(wanted)
            if created:
                say(f"PyTorchJob {name} created in {self.cluster.namespace}: {self._size()}")
                return found
            ended = _ended(found)
            # One of this very launcher has ended before the answer to its creation came.
            if ended is None or found["metadata"]["annotations"].get(LAUNCHER_MARK) == self.launcher.name:
                return self._adopt(found)
            say(f"PyTorchJob {name} of an earlier attempt has ended ({ended['type']}); starting another")
        raise SocoError(
            f"{ATTEMPTS - 1} PyTorchJobs {job_name(self.work)}-N have failed; see why, then delete them: "
            f"kubectl delete pytorchjob -n {self.cluster.namespace} -l {RESULT_LABEL}={self.work.fingerprint}"
        )

    def _create(self, wanted: Job) -> tuple[bool, Job]:
        """Create a job, or find the one of its name; tell which, and wait for the end of one that is being deleted."""
        name, limit = wanted["metadata"]["name"], self.settings.pending_limit
        began, looks = time.monotonic(), 0
        while True:
            created = self.cluster.create(wanted)
            if created is not None:
                return True, created
            found = self.cluster.job(name)
            if found is not None:
                self._check_ours(found)
                if not found["metadata"].get("deletionTimestamp"):
                    return False, found
                if looks == 0:
                    say(f"PyTorchJob {name} is being deleted; waiting for its end")
                if time.monotonic() - began > limit:
                    raise SocoError(
                        f"the PyTorchJob {name} has been in deletion for more than {limit} s; see what holds it "
                        f"(metadata.finalizers): kubectl get pytorchjob -n {self.cluster.namespace} {name} -o yaml"
                    )
            time.sleep(self.cluster.waits.before_retry(looks))
            looks += 1

    def _check_ours(self, found: Job) -> None:
        metadata = found["metadata"]
        its = metadata.get("labels", {}).get(RESULT_LABEL), metadata.get("annotations", {}).get(RESULT_PLACE)
        if its != (self.work.fingerprint, self.work.result):
            raise InputError(
                f"the PyTorchJob {metadata['name']} in {self.cluster.namespace} is not of the result "
                f"{self.work.result}; if it is nobody's, {_delete(found)}"
            )

    def _adopt(self, found: Job) -> Job:
        metadata = found["metadata"]
        name = metadata["name"]
        say(f"PyTorchJob {name} runs already in {self.cluster.namespace}; watching it")
        wanted = build_job(self.settings, self.work, name=name, launcher=self.launcher)["metadata"]
        if metadata["annotations"].get(SETTINGS_MARK) != wanted["annotations"][SETTINGS_MARK]:
            say(f"warning: {name} was started with other settings; to have these, stop this and {_delete(found)}")
        changes: dict[str, Any] = {"annotations": {LAUNCHER_MARK: self.launcher.name}}
        if self.launcher.uid:
            # Else it would go with the pod of the attempt before.
            changes["ownerReferences"] = [owner_reference(self.launcher)]
        changed = self.cluster.patch(name, {"metadata": changes})
        return changed or found

    def _watch(self) -> None:
        while True:
            # Pods first: those that the operator removes after the job's end are then not taken for lost.
            pods = self.cluster.pods(self.name)
            job = self.cluster.job(self.name)
            if job is None or job["metadata"]["uid"] != self.job["metadata"]["uid"]:
                raise SocoError(
                    f"the PyTorchJob {self.name} was deleted while it ran, not from here; run this again to go on from "
                    "the last checkpoint"
                )
            self.job = job
            self._report()
            end = _ended(job)
            if end is not None:  # pods may have ended with it since they were looked at
                pods += self.cluster.pods(self.name)
            for pod in pods:
                if is_master(pod) and has_begun(pod):
                    self.log.follow(str(pod["metadata"]["name"]))
            if end is not None:
                self._end(end, pods)
                return
            self.pods.look(pods)
            self._check_waiting(pods)
            self.cluster.wait_for_change(job)

    def _report(self) -> None:
        for condition in self.job.get("status", {}).get("conditions") or []:
            key = (condition["type"], condition.get("lastTransitionTime") or condition.get("message", ""))
            if condition["status"] == "True" and key not in self._reported:
                self._reported.add(key)
                say(f"PyTorchJob {self.name}: {condition['type']}: {_flat(condition.get('message', ''))}")

    def _check_waiting(self, pods: list[dict[str, Any]]) -> None:
        """Say what the job waits for, and give it up after too long."""
        if _suspended(self.job):
            queue = f" in Kueue's queue {self.settings.queue}" if self.settings.queue else ""
            kind, why = "suspended", [f"suspended{queue}: it waits until its quota is free"]
            why += self.cluster.warnings(self.name)[-1:]
        elif not pods:
            kind, why = "pending", self.cluster.warnings(self.name)[-1:]
            taken_up = bool(self.job.get("status", {}).get("conditions"))
            why = why or ["no pods yet" if taken_up else "the training operator has not taken it up yet (does it run?)"]
        else:
            why = [self._why(pod) for pod in pods if is_waiting(pod)]
            kind = "pending" if why else ""
        if self.patience.is_over(kind, why):
            limit, field = self.patience.limit(kind)
            self.cluster.delete(self.job, self.cluster.waits.stop)
            raise SocoError(
                f"the PyTorchJob {self.name} was {kind} for more than {limit} s and is deleted; {why[0]}. Mend that, "
                f"or raise {field} in the parameter `job`"
            )

    def _why(self, pod: dict[str, Any]) -> str:
        name = str(pod["metadata"]["name"])
        return f"pod {name} is pending: {why_waiting(pod, lambda: self.cluster.warnings(name))}"

    def _end(self, end: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        for pod in pods:
            self.pods.note(pod)
        self.log.finish()
        if end["type"] == "Failed":
            self._fail(end)

    def _fail(self, end: dict[str, Any]) -> NoReturn:
        line = f"the PyTorchJob {self.name} failed ({end.get('reason', '')}: {_flat(end.get('message', ''))})"
        cause = self.pods.cause()
        if cause is not None:
            own = "-master-" in cause.pod
            lines = list(self.log.last) if own else last_lines(self.cluster, cause.pod)
            if not own:
                for text in lines:
                    say(f"{cause.pod}: {text}")
            quoted = " | ".join(lines[-QUOTED_LINES:])[-QUOTED_CHARACTERS:]
            line += f"; pod {cause.pod} ended with {cause.cause}" + (f", its last lines: {quoted}" if quoted else "")
            if cause.reason == "OOMKilled":
                line += "; raise memory in the parameter `job`"
        raise SocoError(f"{line}. Mend that and run this again, it goes on from the last checkpoint")

    def _stop(self) -> str:
        """Delete the job, unless another launcher has taken it over; return what was done, for the user."""
        if not self.job:
            return "the PyTorchJob was not created yet"
        say(f"asked to stop: deleting the PyTorchJob {self.name}")
        patience = self.cluster.waits.stop
        try:
            job = self.cluster.job(self.name, patience)
            if job is None:
                return f"the PyTorchJob {self.name} is gone"
            self._check_ours(job)
            if job["metadata"].get("annotations", {}).get(LAUNCHER_MARK) != self.launcher.name:
                return f"the PyTorchJob {self.name} goes on, another run watches it"
            self.cluster.delete(job, patience)
        except SocoError as error:
            return f"the PyTorchJob {self.name} may go on ({error}); {_delete(self.job)}"
        return f"the PyTorchJob {self.name} is deleted, its last checkpoint kept. Run the same again to go on"

    def _size(self) -> str:
        each = f"{self.settings.gpus_per_node} GPUs" if self.settings.gpus_per_node else "the CPU"
        count = self.settings.nodes
        return f"{count} {'pod' if count == 1 else 'pods'}, each with {self.settings.processes} processes on {each}"


class _Patience:
    """How long the job has waited, and what was said of it."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self._kind = ""
        self._since = 0.0
        self._said: set[str] = set()

    def limit(self, kind: str) -> tuple[float, str]:
        field = "queue_limit" if kind == "suspended" else "pending_limit"
        return getattr(self._settings, field), field

    def is_over(self, kind: str, why: list[str]) -> bool:
        """Say what is new, and tell whether the job has waited for too long; an empty `kind`: it does not wait."""
        now = time.monotonic()
        if kind != self._kind:
            self._kind, self._since, self._said = kind, now, set()
        for line in why:
            if line not in self._said:
                self._said.add(line)
                say(line)
        return bool(kind) and now - self._since > self.limit(kind)[0]


def _ended(job: Job) -> dict[str, Any] | None:
    """Return the condition that says that a job is over, or None."""
    conditions = job.get("status", {}).get("conditions") or []
    over = (each for each in conditions if each["type"] in {"Succeeded", "Failed"} and each["status"] == "True")
    return next(over, None)


def _suspended(job: Job) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    said = any(each["type"] == "Suspended" and each["status"] == "True" for each in conditions)
    return said or bool(job["spec"].get("runPolicy", {}).get("suspend"))


def _delete(job: Job) -> str:
    metadata = job["metadata"]
    return f"kubectl delete pytorchjob -n {metadata['namespace']} {metadata['name']}"


def _flat(text: str) -> str:
    return " ".join(text.split())

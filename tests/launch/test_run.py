"""A job from its start to its end, against a server that answers as Kubernetes does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from soco_core.errors import InputError, SocoError
from soco_core.launch import build_job, job_name, run_job
from soco_core.launch.cluster import Cluster, ClusterError
from tests.launch.conftest import SETTINGS, WAITS, WORK
from tests.launch.fake_api import JOBS, NAMESPACE
from tests.launch.fake_kubernetes import FakeKubernetes

pytestmark = pytest.mark.timeout(60)

NAME = job_name(WORK)
Said = Callable[[], list[str]]


def run(**changes: Any) -> None:
    run_job(SETTINGS.model_copy(update=changes), WORK, WAITS)


def succeed(fake: FakeKubernetes, job: str) -> None:
    """What the operator does with a job that goes well."""
    fake.condition(job, "Created")
    master, worker = fake.running(job), fake.running(job, "worker")
    fake.condition(job, "Running")
    fake.log(master, "step 1", "step 2")
    fake.ended(master, 0)
    fake.ended(worker, 0)
    fake.condition(job, "Succeeded", "PyTorchJob is successfully completed.")


@pytest.fixture
def well(kubernetes: FakeKubernetes) -> FakeKubernetes:
    kubernetes.operate = lambda job: succeed(kubernetes, job)
    return kubernetes


def test_a_job_that_goes_well(well: FakeKubernetes, said: Said) -> None:
    run()
    lines = said()
    assert lines[0] == f"PyTorchJob {NAME} created in team: 2 pods, each with 8 processes on 8 GPUs"
    assert f"PyTorchJob {NAME}: Created: PyTorchJob {NAME} is created." in lines
    assert lines.count(f"PyTorchJob {NAME}: Succeeded: PyTorchJob is successfully completed.") == 1
    assert [line for line in lines if line.startswith("master: ")] == ["master: step 1", "master: step 2"]
    assert not any("lost" in line for line in lines)
    assert len(well.asked("POST", JOBS)) == 1


@pytest.mark.parametrize("status", [500, 429, 503])
def test_errors_of_the_api_pass(well: FakeKubernetes, said: Said, status: int) -> None:
    well.fail("POST", JOBS, status, times=2, Retry_After="1")
    well.fail("GET", f"{JOBS}/.*", status)
    well.fail("GET", ".*/pods", status)
    run()
    lines = said()
    assert any(f"does not answer (HTTP {status}" in line for line in lines)
    assert any("answers again" in line for line in lines)
    assert len(well.asked("POST", JOBS)) == 3


def test_an_answer_that_is_lost_starts_no_second_job(well: FakeKubernetes, said: Said) -> None:
    well.fail("POST", JOBS, 504, done=True)
    run()
    assert list(well.jobs) == [NAME]
    assert f"PyTorchJob {NAME} runs already in team; watching it" in said()


def test_a_server_that_is_away_for_a_while(kubernetes: FakeKubernetes, said: Said) -> None:
    def operate(job: str) -> None:
        kubernetes.condition(job, "Created")
        master = kubernetes.running(job)
        kubernetes.log(master, "step 1")
        kubernetes.wait_until(lambda: kubernetes.asked("GET", ".*/log"))
        kubernetes.stop()
        threading.Event().wait(0.3)
        kubernetes.start()
        kubernetes.log(master, "step 2")
        kubernetes.ended(master, 0)
        kubernetes.condition(job, "Succeeded")

    kubernetes.operate = operate
    run()
    lines = said()
    assert any("Kubernetes API does not answer" in line and "refused" in line for line in lines)
    assert [line for line in lines if line.startswith("master: ")] == ["master: step 1", "master: step 2"]


def test_a_server_that_never_answered_is_given_up_soon(kubernetes: FakeKubernetes) -> None:
    kubernetes.stop()
    with pytest.raises(ClusterError, match=rf"create .*API at http://127.0.0.1:{kubernetes.port} is away .*refused"):
        run()
    kubernetes.start()


def test_a_server_that_stays_away_leaves_the_job_to_the_next_attempt(kubernetes: FakeKubernetes) -> None:
    kubernetes.operate = lambda job: (kubernetes.condition(job, "Running"), kubernetes.stop())  # type: ignore[func-returns-value]
    with pytest.raises(ClusterError, match="is away"):
        run_job(SETTINGS, WORK, WAITS.__class__(**{**vars(WAITS), "patience": 0.5}))
    kubernetes.start()
    assert NAME in kubernetes.jobs


def test_watches_that_are_cut_or_too_old(kubernetes: FakeKubernetes, said: Said) -> None:
    kubernetes.cut_watches = 2
    kubernetes.expired_watches.extend(["status", "event"])

    def operate(job: str) -> None:
        kubernetes.wait_until(lambda: not kubernetes.expired_watches and kubernetes.cut_watches == 0)
        succeed(kubernetes, job)

    kubernetes.operate = operate
    run()
    watches = [query for query in kubernetes.asked("GET", JOBS) if query.get("watch")]
    assert len(watches) >= 4
    assert {query["fieldSelector"] for query in watches} == {f"metadata.name={NAME}"}
    versions = [int(query["resourceVersion"]) for query in watches]
    assert versions == sorted(versions)
    assert versions[0] == 101  # what the answer to the creation named
    assert f"PyTorchJob {NAME}: Succeeded: PyTorchJob is successfully completed." in said()


def test_a_restarted_step_finds_its_job(kubernetes: FakeKubernetes, said: Said) -> None:
    kubernetes.put(build_job(SETTINGS.model_copy(update={"namespace": NAMESPACE}), WORK))

    def operate_later() -> None:
        kubernetes.wait_until(lambda: kubernetes.asked("PATCH", ".*"))
        succeed(kubernetes, NAME)

    thread = threading.Thread(target=operate_later)
    thread.start()
    run()
    thread.join()
    lines = said()
    assert f"PyTorchJob {NAME} runs already in team; watching it" in lines
    assert not any("other settings" in line for line in lines)
    assert list(kubernetes.jobs) == [NAME]


def test_a_job_of_other_settings_is_watched_with_a_word(kubernetes: FakeKubernetes, said: Said) -> None:
    kubernetes.put(build_job(SETTINGS.model_copy(update={"nodes": 4}), WORK))
    succeed_later = threading.Timer(0.2, lambda: succeed(kubernetes, NAME))
    succeed_later.start()
    run()
    succeed_later.join()
    assert any(
        f"started with other settings; to have these, stop this and kubectl delete pytorchjob -n team {NAME}" in line
        for line in said()
    )


def test_a_job_of_somebody_else_is_refused(kubernetes: FakeKubernetes) -> None:
    other = build_job(SETTINGS, WORK)
    other["metadata"]["labels"]["soco/result"] = "fedcba9876543210"
    kubernetes.put(other)
    with pytest.raises(InputError, match=f"{NAME} in team is not of the result {WORK.result}; .*kubectl delete"):
        run()
    assert NAME in kubernetes.jobs


def test_after_a_failed_job_another_is_started(well: FakeKubernetes, said: Said) -> None:
    well.operate, operate = None, well.operate
    well.put(build_job(SETTINGS, WORK))
    well.condition(NAME, "Failed")
    well.operate = operate
    run()
    assert list(well.jobs) == [NAME, f"{NAME}-2"]
    assert f"PyTorchJob {NAME} of an earlier attempt has ended (Failed); starting another" in said()


def test_a_job_that_is_being_deleted_is_waited_for(well: FakeKubernetes, said: Said) -> None:
    well.operate, operate = None, well.operate
    well.put(build_job(SETTINGS, WORK))["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    well.operate = operate
    timer = threading.Timer(0.3, lambda: well.remove(NAME))
    timer.start()
    run()
    assert any("is being deleted" in line for line in said())
    assert list(well.jobs) == [NAME]


def test_a_job_that_fails_names_the_pod_and_its_last_lines(kubernetes: FakeKubernetes, said: Said) -> None:
    def operate(job: str) -> None:
        master, worker = kubernetes.running(job), kubernetes.running(job, "worker")
        kubernetes.log(master, "step 1", "another process is gone")
        kubernetes.log(worker, "step 1", "loading", "images", "Killed")
        kubernetes.ended(master, 1)
        kubernetes.ended(worker, 137, "OOMKilled")
        kubernetes.condition(job, "Failed", "the job has failed: backoffLimit", "PyTorchJobFailed")

    kubernetes.operate = operate
    with pytest.raises(SocoError) as caught:
        run()
    line = str(caught.value)
    assert f"the PyTorchJob {NAME} failed (PyTorchJobFailed: the job has failed: backoffLimit)" in line
    assert (
        f"pod {NAME}-worker-0 ended with exit code 137 (OOMKilled), its last lines: loading | images | Killed" in line
    )
    assert "raise memory" in line
    assert f"{NAME}-worker-0: Killed" in said()


def test_the_first_pod_to_fail_is_the_cause(kubernetes: FakeKubernetes) -> None:
    def operate(job: str) -> None:
        worker, master = kubernetes.running(job, "worker"), kubernetes.running(job)
        kubernetes.log(master, "error: recipe.yaml: unknown key")
        kubernetes.ended(master, 2)
        kubernetes.ended(worker, 1)
        kubernetes.condition(job, "Failed")

    kubernetes.operate = operate
    with pytest.raises(
        SocoError, match=r"master-0 ended with exit code 2, its last lines: error: recipe\.yaml: unknown"
    ):
        run()


def test_pods_that_end_between_two_looks_are_the_cause_too(
    kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job fails right after the launcher has asked for its pods, of which there were none."""
    pods, failed, looks = Cluster.pods, threading.Event(), iter(range(99))

    def operate(job: str) -> None:
        master = kubernetes.running(job)
        kubernetes.log(master, "error: recipe.yaml: unknown key")
        kubernetes.ended(master, 2)
        kubernetes.condition(job, "Failed")
        failed.set()

    def too_early(self: Cluster, name: str) -> list[Any]:
        if next(looks) > 0:
            return pods(self, name)
        assert failed.wait(20)
        return []

    kubernetes.operate = operate
    monkeypatch.setattr(Cluster, "pods", too_early)
    with pytest.raises(SocoError, match=r"master-0 ended with exit code 2, its last lines: error: recipe\.yaml"):
        run()


def test_a_lost_pod_is_reported_and_not_fatal(kubernetes: FakeKubernetes, said: Said) -> None:
    def seen() -> None:
        """Wait until the launcher has looked at the pods as they are now, and at the job after that."""
        for _ in range(2):
            before = len(kubernetes.asked("GET", ".*/pods"))
            kubernetes.touch(NAME)  # its watch need not wait for the end of a turn
            kubernetes.wait_until(lambda before=before: len(kubernetes.asked("GET", ".*/pods")) > before)

    def operate(job: str) -> None:
        master, worker = kubernetes.running(job), kubernetes.running(job, "worker")
        kubernetes.log(master, "step 1")
        seen()
        kubernetes.lose(worker, "Evicted", "The node was low on resource: memory.")
        seen()
        kubernetes.lose(worker)
        kubernetes.condition(job, "Restarting", "job is restarting because 1 Worker replica(s) failed.")
        seen()
        kubernetes.running(job, "worker")
        kubernetes.restarted(master, 1)
        seen()
        kubernetes.log(master, "step 2")
        kubernetes.ended(master, 0)
        kubernetes.condition(job, "Succeeded")

    kubernetes.operate = operate
    run()
    lines = said()
    lost = f"pod {NAME}-worker-0 is lost (Evicted: The node was low on resource: memory.); the operator starts it again"
    assert lines.count(lost) == 1
    assert f"PyTorchJob {NAME}: Restarting: job is restarting because 1 Worker replica(s) failed." in lines
    assert any(line.startswith(f"pod {NAME}-master-0 ended with exit code 1; started again (1)") for line in lines)
    assert [line for line in lines if line.startswith("master: ")] == ["master: step 1", "master: step 2"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_job_that_others_delete(kubernetes: FakeKubernetes, replaced: bool) -> None:
    def operate(job: str) -> None:
        kubernetes.condition(job, "Running")
        kubernetes.running(job)
        with kubernetes.changed:
            kubernetes.operate = None
            kubernetes.remove(job)
            if replaced:
                kubernetes.put(build_job(SETTINGS, WORK))
                kubernetes.condition(job, "Succeeded")

    kubernetes.operate = operate
    with pytest.raises(SocoError, match=f"{NAME} was deleted while it ran, not from here"):
        run()


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (403, "cannot create .* in the namespace team: HTTP 403, planned by the test; give its service account a role"),
        (404, "HTTP 404, .*is Kubeflow's training operator .*installed"),
        (422, "cannot create the PyTorchJob .*: HTTP 422, planned by the test"),
        (401, "HTTP 401, planned by the test; log in"),
    ],
)
def test_a_refusal_is_one_line(kubernetes: FakeKubernetes, status: int, line: str) -> None:
    kubernetes.fail("POST", JOBS, status)
    with pytest.raises(ClusterError, match=line):
        run()
    assert len(kubernetes.asked("POST", JOBS)) == 1


def test_a_token_that_is_being_renewed_is_no_error(well: FakeKubernetes) -> None:
    well.fail("GET", f"{JOBS}/.*", 401)
    run()


def test_the_launching_pod_owns_the_job_and_names_its_run(
    well: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    well.pods["step-7"] = {
        "metadata": {"name": "step-7", "uid": "uid-7", "labels": {"pipeline/runid": "run-1"}},
        "spec": {"containers": [{"name": "wait", "image": "argo"}, {"name": "main", "image": "soco:own"}]},
    }
    monkeypatch.setenv("KFP_POD_NAME", "step-7")
    run(image="")
    job = well.jobs[NAME]
    assert job["metadata"]["labels"]["soco/run"] == "run-1"
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "step-7", "uid": "uid-7", "controller": False}
    ]
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["metadata"]["labels"]["soco/run"] == "run-1"
    assert template["spec"]["containers"][0]["image"] == "soco:own"


def test_a_job_that_is_found_again_belongs_to_the_new_pod(
    kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_job(SETTINGS, WORK)
    job["metadata"]["ownerReferences"] = [{"kind": "Pod", "name": "step-6", "uid": "uid-6"}]
    kubernetes.put(job)
    kubernetes.pods["step-7"] = {"metadata": {"name": "step-7", "uid": "uid-7", "labels": {}}, "spec": {}}
    monkeypatch.setenv("KFP_POD_NAME", "step-7")
    timer = threading.Timer(0.2, lambda: succeed(kubernetes, NAME))
    timer.start()
    run()
    timer.join()
    assert [owner["uid"] for owner in kubernetes.jobs[NAME]["metadata"]["ownerReferences"]] == ["uid-7"]
    assert kubernetes.jobs[NAME]["metadata"]["annotations"]["soco/launcher"] == "step-7"


def test_no_image_anywhere(kubernetes: FakeKubernetes) -> None:
    with pytest.raises(InputError, match="image is missing"):
        run(image="")
    assert not kubernetes.jobs

"""A job that waits: it says why, and a limit ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from soco_core.errors import SocoError
from soco_core.launch import build_job, job_name, run_job
from tests.launch.conftest import SETTINGS, WAITS, WORK
from tests.launch.fake_kubernetes import FakeKubernetes

pytestmark = pytest.mark.timeout(60)

NAME = job_name(WORK)
Said = Callable[[], list[str]]


def run(**changes: Any) -> None:
    run_job(SETTINGS.model_copy(update=changes), WORK, WAITS)


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes: no gpu"}


@pytest.mark.parametrize(
    ("status", "event", "why"),
    [
        ({"conditions": [UNSCHEDULABLE]}, None, "FailedScheduling: 0/4 nodes: no gpu"),
        ({}, ("FailedScheduling", "0/4 nodes are available"), "FailedScheduling: 0/4 nodes are available"),
        (
            {
                "containerStatuses": [
                    {
                        "name": "pytorch",
                        "state": {
                            "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "soco:typo"'}
                        },
                    }
                ]
            },
            None,
            'ImagePullBackOff: Back-off pulling image "soco:typo"',
        ),
    ],
)
def test_a_pending_job_says_why_and_has_a_limit(
    kubernetes: FakeKubernetes, said: Said, status: dict[str, Any], event: tuple[str, str] | None, why: str
) -> None:
    def operate(job: str) -> None:
        kubernetes.condition(job, "Created")
        pod = kubernetes.pod(job, **status)
        if event:
            kubernetes.event(pod, *event)

    kubernetes.operate = operate
    with pytest.raises(SocoError) as caught:
        run(pending_limit=1)
    assert str(caught.value) == (
        f"the PyTorchJob {NAME} was pending for more than 1 s and is deleted; pod {NAME}-master-0 is pending: {why}. "
        "Mend that, or raise pending_limit in the parameter `job`"
    )
    assert said().count(f"pod {NAME}-master-0 is pending: {why}") == 1
    assert not kubernetes.jobs


def test_a_job_without_pods_says_what_the_operator_could_not_do(kubernetes: FakeKubernetes) -> None:
    def operate(job: str) -> None:
        kubernetes.condition(job, "Created")
        kubernetes.event(job, "FailedCreatePod", "exceeded quota: gpus")

    kubernetes.operate = operate
    with pytest.raises(SocoError, match="pending for more than 1 s and is deleted; FailedCreatePod: exceeded quota"):
        run(pending_limit=1)


def test_a_job_that_nobody_takes_up(kubernetes: FakeKubernetes) -> None:
    with pytest.raises(SocoError, match=r"the training operator has not taken it up yet \(does it run\?\)"):
        run(pending_limit=1)


def test_a_suspended_job_has_a_limit_of_its_own(kubernetes: FakeKubernetes, said: Said) -> None:
    def operate(job: str) -> None:
        kubernetes.jobs[job]["spec"]["runPolicy"]["suspend"] = True
        kubernetes.condition(job, "Suspended")

    kubernetes.operate = operate
    with pytest.raises(
        SocoError, match=r"was suspended for more than 1 s and is deleted; suspended in Kueue's queue gpus"
    ):
        run(pending_limit=1, queue="gpus", queue_limit=1)
    assert "suspended in Kueue's queue gpus: it waits until its quota is free" in said()


def test_events_that_may_not_be_read_cost_only_the_reason(kubernetes: FakeKubernetes) -> None:
    kubernetes.fail("GET", ".*/events", 403, times=100)
    kubernetes.operate = lambda job: (kubernetes.condition(job, "Created"), kubernetes.pod(job))[0]  # type: ignore[func-returns-value]
    with pytest.raises(SocoError, match="master-0 is pending: not scheduled yet"):
        run(pending_limit=1)


def test_a_job_that_stays_in_deletion(kubernetes: FakeKubernetes, said: Said) -> None:
    kubernetes.put(build_job(SETTINGS, WORK))["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(SocoError, match=r"in deletion for more than 1 s; see what holds it \(metadata\.finalizers\)"):
        run(pending_limit=1)
    assert said() == [f"PyTorchJob {NAME} is being deleted; waiting for its end"]

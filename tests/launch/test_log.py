"""The log of a pod arrives whole: no line lost, none twice, whatever is cut and whoever is started again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soco_core.launch.cluster import Cluster, connect
from soco_core.launch.log import LogStream, last_lines
from tests.launch.conftest import WAITS
from tests.launch.fake_kubernetes import FakeKubernetes

pytestmark = pytest.mark.timeout(60)

JOB = "job"
LINES = [f"step {number}" for number in range(40)]
Said = Callable[[], list[str]]


@pytest.fixture
def cluster(kubernetes: FakeKubernetes) -> Cluster:
    return connect("", WAITS)


def logs(kubernetes: FakeKubernetes) -> int:
    return len(kubernetes.asked("GET", ".*/log"))


@pytest.mark.parametrize("politely", [False, True])
@pytest.mark.parametrize("cuts", [[], [0], [45], [45, 100, 7], [39, 40, 41, 42], [1000]])
def test_a_stream_that_is_cut(
    kubernetes: FakeKubernetes, cluster: Cluster, said: Said, cuts: list[int], politely: bool
) -> None:
    kubernetes.cuts_politely = politely
    kubernetes.cut_logs.extend(cuts)
    pod = kubernetes.running(JOB)
    stream = LogStream(cluster, "")
    kubernetes.log(pod, *LINES[:20])
    stream.follow(pod)
    kubernetes.wait_until(lambda: len(stream.last) == 20)
    kubernetes.log(pod, *LINES[20:])
    kubernetes.ended(pod, 0)
    stream.finish()
    assert said() == LINES
    assert list(stream.last) == LINES[-20:]
    assert not kubernetes.cut_logs


def test_lines_of_one_instant_are_all_there(kubernetes: FakeKubernetes, cluster: Cluster, said: Said) -> None:
    kubernetes.cut_logs.extend([100, 200, 300])
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, "same", "same", "other", "same", *LINES, same_time=True)
    stream = LogStream(cluster, "")
    stream.follow(pod)
    kubernetes.wait_until(lambda: stream.last and stream.last[-1] == LINES[-1])
    kubernetes.log(pod, "same", same_time=True)
    kubernetes.ended(pod, 0)
    stream.finish()
    assert said() == ["same", "same", "other", "same", *LINES, "same"]


def test_what_a_container_said_before_it_was_started_again(
    kubernetes: FakeKubernetes, cluster: Cluster, said: Said
) -> None:
    kubernetes.cut_logs.append(60)
    pod = kubernetes.running(JOB)
    stream = LogStream(cluster, "")
    with kubernetes.changed:  # nothing is answered until all has happened: the first life is read by its end only
        stream.follow(pod)
        kubernetes.log(pod, "first 1")
    kubernetes.wait_until(lambda: "first 1" in stream.last)
    with kubernetes.changed:
        kubernetes.log(pod, "first 2", "first 3: a long line that is cut in the middle", "first 4")
        kubernetes.restarted(pod, 137, "OOMKilled")
        kubernetes.log(pod, "second 1")
    kubernetes.wait_until(lambda: "second 1" in stream.last)
    kubernetes.ended(pod, 0)
    stream.finish()
    assert said() == ["first 1", "first 2", "first 3: a long line that is cut in the middle", "first 4", "second 1"]


def test_another_pod_of_the_same_name(kubernetes: FakeKubernetes, cluster: Cluster, said: Said) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, "of the first pod")
    stream = LogStream(cluster, "")
    stream.follow(pod)
    kubernetes.wait_until(lambda: stream.last)
    kubernetes.lose(pod)
    # The second node's clock is behind.
    kubernetes.clock = kubernetes.clock.replace(year=2025)
    kubernetes.pod(JOB)
    kubernetes.running(JOB)
    kubernetes.log(pod, "of the second pod")
    kubernetes.wait_until(lambda: len(stream.last) == 2)
    kubernetes.ended(pod, 0)
    stream.finish()
    assert said() == ["of the first pod", "of the second pod"]


def test_a_server_that_is_started_again(kubernetes: FakeKubernetes, cluster: Cluster, said: Said) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, *LINES[:3])
    stream = LogStream(cluster, "")
    stream.follow(pod)
    kubernetes.wait_until(lambda: len(stream.last) == 3)
    kubernetes.stop()
    kubernetes.log(pod, *LINES[3:5])
    kubernetes.start()
    kubernetes.wait_until(lambda: len(stream.last) == 5)
    kubernetes.ended(pod, 0)
    stream.finish()
    assert [line for line in said() if line.startswith("step")] == LINES[:5]


def test_errors_of_the_api_lose_no_line(kubernetes: FakeKubernetes, cluster: Cluster, said: Said) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, *LINES[:3])
    kubernetes.fail("GET", ".*/log", 500, times=2)
    kubernetes.fail("GET", ".*/log", 429)
    stream = LogStream(cluster, "")
    stream.follow(pod)
    kubernetes.wait_until(lambda: len(stream.last) == 3)
    kubernetes.ended(pod, 0)
    kubernetes.fail("GET", ".*/log", 503)
    stream.finish()
    assert said() == LINES[:3]


def test_a_quiet_log_is_opened_anew(kubernetes: FakeKubernetes, said: Said) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, "step 1")
    stream = LogStream(connect("", WAITS.__class__(**{**vars(WAITS), "quiet_log": 0.2})), "")
    stream.follow(pod)
    kubernetes.wait_until(lambda: logs(kubernetes) > 2)
    kubernetes.log(pod, "step 2")
    kubernetes.ended(pod, 0)
    stream.finish()
    assert said() == ["step 1", "step 2"]


def test_the_end_does_not_wait_for_a_stream_that_stays_open(
    kubernetes: FakeKubernetes, cluster: Cluster, said: Said
) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, "step 1")
    stream = LogStream(cluster, "")
    stream.follow(pod)
    kubernetes.wait_until(lambda: stream.last)
    stream.finish()
    assert not stream._thread.is_alive()
    assert said() == ["step 1"]


def test_lines_of_the_kubelet_and_zones(kubernetes: FakeKubernetes, cluster: Cluster, said: Said) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.lives[pod][-1] += [
        ("2026-01-01T01:00:00.5+01:00", "one"),
        ("failed", "to watch the log"),
        ("2026-01-01T00:00:00.500000001Z", "two"),
        ("2026-01-01T00:00:01Z", ""),
        ("2026-01-01T00:00:02Z", "three\r"),
    ]
    kubernetes.ended(pod, 0)
    stream = LogStream(cluster, "> ")
    stream.follow(pod)
    kubernetes.wait_until(lambda: "three" in stream.last)
    stream.finish()
    assert said() == ["> one", "> two", "> three"]


def test_last_lines(kubernetes: FakeKubernetes, cluster: Cluster) -> None:
    pod = kubernetes.running(JOB)
    kubernetes.log(pod, *LINES)
    kubernetes.ended(pod, 1)
    assert last_lines(cluster, pod) == LINES[-20:]
    assert last_lines(cluster, "nobody") == []

"""A stage's process and its workers end with the pipeline command, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

STAGE = """
import os, sys, time
from soco_core.engine.processes import end_with_pipeline
if sys.argv[2] == "no pidfd":
    os.__dict__.pop("pidfd_open", None)
end_with_pipeline()
worker = os.fork()
if worker:
    with open(sys.argv[1] + ".part", "w") as file:
        file.write(f"{os.getpid()} {worker}")
    os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(60)
"""
PIPELINE = """
import os, subprocess, sys
environment = {**os.environ, "SOCO_PIPELINE_PID": str(os.getpid())}
stage = [sys.executable, "-c", sys.argv[1], sys.argv[2], sys.argv[4]]
shell = ["sh", "-c", '"$@"; exit $?', "sh"] if sys.argv[3] == "sh" else []
subprocess.run([*shell, *stage], env=environment)
"""


def ended(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for yet has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: bool | object, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if callable(condition) and condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def no_leftovers() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        if not ended(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("way", ["pidfd", "no pidfd"])
@pytest.mark.parametrize("through", ["directly", "sh"])
def test_it_ends_within_two_seconds(tmp_path: Path, no_leftovers: list[int], through: str, way: str) -> None:
    report = tmp_path / "pids"
    pipeline = subprocess.Popen([sys.executable, "-c", PIPELINE, STAGE, str(report), through, way])
    try:
        assert wait_until(report.exists, 20)
        stage, worker = map(int, report.read_text().split())
        no_leftovers += [stage, worker]
        time.sleep(0.3)
        assert not ended(stage)
        assert not ended(worker)
    finally:
        pipeline.kill()
        pipeline.wait()
    assert wait_until(lambda: ended(stage) and ended(worker), 2)


def test_it_ends_at_once_when_the_pipeline_is_gone_already(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    script = (
        "import time\nfrom soco_core.engine.processes import end_with_pipeline\nend_with_pipeline()\ntime.sleep(60)"
    )
    environment = {**os.environ, "SOCO_PIPELINE_PID": str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=20)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("gone", ["step", "torchrun"])
def test_a_launched_process_ends_with_the_step_and_with_torchrun(
    gone: str, tmp_path: Path, no_leftovers: list[int]
) -> None:
    stage = STAGE.replace("end_with_pipeline", "end_with_launcher")
    torchrun = "import subprocess, sys; subprocess.run(sys.argv[1:], start_new_session=True)"
    report = tmp_path / "pids"
    step = subprocess.Popen(["sleep", "60"])
    starter = subprocess.Popen(
        [sys.executable, "-c", torchrun, sys.executable, "-c", stage, str(report), "pidfd"],
        env={**os.environ, "SOCO_LAUNCHING_STEP": str(step.pid)},
    )
    try:
        assert wait_until(report.exists, 20)
        process, worker = map(int, report.read_text().split())
        no_leftovers += [process, worker]
        time.sleep(0.3)
        assert not ended(process)
        assert not ended(worker)
        (step if gone == "step" else starter).kill()
        assert wait_until(lambda: ended(process) and ended(worker), 10)
    finally:
        for each in (step, starter):
            each.kill()
            each.wait()


def test_a_stage_that_no_pipeline_started_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "SOCO_PIPELINE_PID"}
    script = (
        "import os, threading\nfrom soco_core.engine.processes import end_with_pipeline\ngroup = os.getpgrp()\n"
        "end_with_pipeline()\nprint(threading.active_count(), group == os.getpgrp())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "1 True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_ends_at_once_with_its_parent_and_closes_what_it_had_of_it(moment: str) -> None:
    """Nobody hears of a killed process while a worker has its connections; here a pipe that ends with the last one."""
    script = """
import os, signal, sys, time
from soco_core.engine.processes import end_with_parent
parent, after = os.getpid(), sys.argv[1] == "after"
ready, tell = os.pipe()
if os.fork():
    os.read(ready, 1) if after else None
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while not after and os.getppid() == parent:
    time.sleep(0.01)
end_with_parent(parent)
os.write(tell, b"x")
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, moment], stdout=subprocess.PIPE)
    assert process.wait(20) == -signal.SIGKILL
    began = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - began < 3


STUCK = """
import sys, threading, time
from soco_core.engine import processes
processes.LEAVE_SECONDS = 0.5
threading.Thread(target=time.sleep, args=(60,)).start()
print("said")
processes.leave(int(sys.argv[1]))
"""


def test_a_thread_that_gets_no_answer_does_not_hold_up_the_end() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", STUCK, "130"], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "said\n", "")
    assert time.monotonic() - began < 30

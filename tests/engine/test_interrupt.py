"""Signals that really arrive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from soco_core.engine.interrupt import InterruptGuard
from soco_core.errors import InterruptedStageError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_the_loop_at_its_safe_point(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    steps: list[int] = []

    def loop() -> None:
        with InterruptGuard() as guard:
            for step in range(10):
                guard.stop_if_asked(f"step {step} is saved")
                if step == 2:
                    os.kill(os.getpid(), number)
                steps.append(step)

    with pytest.raises(InterruptedStageError, match=rf"^stopped by {number.name}; step 3 is saved\. Run the same"):
        loop()
    assert steps == [0, 1, 2]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def run_under_a_guard(body: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import os, signal, time\nfrom soco_core.engine.interrupt import InterruptGuard\n"
        f"with InterruptGuard() as guard:\n    {body}\n    print('not reached', flush=True)\n    time.sleep(5)"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)


def test_the_second_sigterm_takes_effect() -> None:
    done = run_under_a_guard("os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM)")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_a_second_signal_of_the_other_kind_takes_effect_too() -> None:
    done = run_under_a_guard("os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_no_signal_no_stop() -> None:
    with InterruptGuard() as guard:
        guard.stop_if_asked("nothing")
        assert guard.signal is None


def test_an_error_that_follows_the_signal_is_told_as_the_interruption_it_is() -> None:
    def work() -> None:
        with InterruptGuard():
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("worker\nwas killed")

    with pytest.raises(
        InterruptedStageError, match=r"^stopped by SIGTERM \(RuntimeError: worker was killed\); [^\n]*$"
    ):
        work()


def test_an_error_without_a_signal_is_itself() -> None:
    with pytest.raises(RuntimeError, match="itself"), InterruptGuard():
        raise RuntimeError("itself")


def test_outside_the_main_thread_it_does_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with InterruptGuard() as guard:
            guard.stop_if_asked("")
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_forked_worker_ignores_sigint_and_ends_on_sigterm() -> None:
    with InterruptGuard() as guard:
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        worker.start()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.3)
        assert worker.is_alive()
        worker.terminate()
        worker.join(5)
        assert worker.exitcode == -signal.SIGTERM
        assert guard.signal is None


def test_a_loader_goes_on_after_ctrl_c_until_the_safe_point() -> None:
    """A terminal sends SIGINT to the whole group: the workers must deliver what the last step needs."""
    script = """
import os, signal, torch
from soco_core.engine.interrupt import InterruptGuard
from soco_core.errors import InterruptedStageError
loader = torch.utils.data.DataLoader(torch.arange(40), batch_size=2, num_workers=2, multiprocessing_context="fork")
try:
    with InterruptGuard() as guard:
        for step, batch in enumerate(loader):
            if step == 3:
                os.killpg(0, signal.SIGINT)
            if step == 8:
                guard.stop_if_asked("saved")
except InterruptedStageError as error:
    print(step, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        process_group=0,
    )
    assert done.stdout == "8 stopped by SIGINT; saved. Run the same command to go on\n", done.stderr


COMMAND = """
import signal, sys, time
from pathlib import Path
from soco_core import cli
from soco_core.artifacts.lock import local_lock

@cli.app.command()
def work(lock: str):
    with local_lock(Path(lock), "it"):
        print("ready", flush=True)
        time.sleep(60)

sys.argv = ["soco", "work", sys.argv[1]]
# Tests that run in the background have it ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_with_one_line_and_gives_its_lock_back(number: signal.Signals, tmp_path: Path) -> None:
    """Where no loop looks at the signal: before a training, or after it."""
    program = [sys.executable, "-c", COMMAND, str(tmp_path / ".lock")]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert (tmp_path / ".lock.holder").exists()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "stopped; run the same command to go on\n")
    assert not (tmp_path / ".lock.holder").exists()

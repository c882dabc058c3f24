"""The frame that each component runs its stage in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from soco_core.config import Recipe
from soco_core.engine.component import read_recipe
from soco_core.errors import RecipeError
from soco_core.recipes import load_recipe

FRAME = """
import os, signal, sys, time
from soco_core.console import say
from soco_core.engine.component import stage_process
from soco_core.errors import InputError, InterruptedStageError
with stage_process("pretrain") as stage:
    {body}
print("after")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", FRAME.format(body=body)], capture_output=True, text=True, check=False)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("[pretrain] ")]


def test_success_names_the_result() -> None:
    done = run("say('half'); stage.result = '/r'")
    started, progress, ended = done.stderr.splitlines()
    assert started.startswith("[pretrain] started (process ")
    assert progress == "[pretrain] half"
    assert ended.startswith("[pretrain] done in 0.")
    assert ended.endswith(" s: /r")
    assert (done.returncode, done.stdout) == (0, "after\n")


def test_error_of_the_user_is_one_line() -> None:
    done = run("raise InputError('a.pth: bad;\\n  replace it')")
    assert done.stderr.splitlines()[1:] == ["[pretrain] error: a.pth: bad; replace it"]
    assert (done.returncode, done.stdout) == (2, "")


def test_bug_has_a_traceback_and_one_line() -> None:
    done = run("1 / 0")
    assert "Traceback" in done.stderr
    assert lines(done.stderr)[-1] == "[pretrain] error: ZeroDivisionError: division by zero"
    assert done.returncode == 1


def test_a_killed_process_of_a_loader_is_one_line() -> None:
    done = run("raise RuntimeError('DataLoader worker (pid 12) is killed by signal: Killed. ')")
    assert "Traceback" not in done.stderr
    assert lines(done.stderr)[-1].startswith("[pretrain] error: a process that loads images (pid 12) was killed")
    assert done.returncode == 2


def test_interrupted_stage_says_what_is_kept() -> None:
    done = run("raise InterruptedStageError('stopped by SIGTERM; step 3 is kept')")
    assert done.stderr.splitlines()[1:] == ["[pretrain] stopped: stopped by SIGTERM; step 3 is kept"]
    assert done.returncode == 130


def test_sigterm_lets_the_stage_clean_up() -> None:
    done = run(
        "try:\n        os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n    finally:\n        say('put away')"
    )
    assert [line.split("] ")[1] for line in lines(done.stderr)[1:]] == [
        "put away",
        "stopped: what was finished is kept",
    ]
    assert done.returncode == 130


def test_stage_and_its_workers_end_with_the_pipeline() -> None:
    pipeline = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    body = "worker = os.fork()\n    if worker: print(worker, flush=True)\n    time.sleep(60)"
    stage = subprocess.Popen(
        [sys.executable, "-c", FRAME.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "SOCO_PIPELINE_PID": str(pipeline.pid)},
    )
    assert stage.stdout is not None
    worker = int(stage.stdout.readline())
    pipeline.kill()
    pipeline.wait()
    killed = time.monotonic()
    assert stage.wait(timeout=10) == -signal.SIGKILL
    assert stage.stdout.read() == ""  # ends when the worker, which holds the pipe too, is gone
    assert time.monotonic() - killed < 2
    with pytest.raises(ProcessLookupError):
        _wait_for_reaping(worker)
    stage.stdout.close()


def _wait_for_reaping(pid: int) -> None:
    """Whoever adopted the worker reaps it; in a container that may take a moment."""
    for _ in range(100):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(") ", 1)[1].startswith("Z"):
                raise ProcessLookupError
        time.sleep(0.02)


def test_recipe_by_name_or_text() -> None:
    assert read_recipe("demo") == load_recipe("demo")
    assert read_recipe(Recipe(seed=5).to_yaml()).seed == 5
    with pytest.raises(RecipeError, match=r"parameter `recipe`: pretrain\.epoch: unknown key"):
        read_recipe("pretrain: {epoch: 3}")

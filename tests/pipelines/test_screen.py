"""What a local run shows and logs, on lines as kfp.local writes them."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.screen import RunEnded, Screen, StageProcess

RECORDED = """\
10:00:00.000 - INFO - Executing task \x1b[96m'pretrain'\x1b[0m
    [KFP Executor 2026-11-23 15:40:18,293 INFO]: Got executor_input:
    {
        "inputs": {}
    [pretrain] started (process 4000000)
    [W1123 10:00:01 engine.cpp:17] Warning: slow
    [pretrain] pretrain: 10/50 it, 2.0/s, 20 s left | loss -3.1
    [pretrain] done in 25.1 s: /out/pretrain/0123
10:00:26.000 - INFO - Task \x1b[96m'pretrain'\x1b[0m finished with status SUCCESS
"""


def screen(echo: bool = False, retries: dict[str, int] | None = None) -> tuple[Screen, io.StringIO, io.StringIO]:
    log, terminal = io.StringIO(), io.StringIO()
    return Screen(log, terminal, echo, retries), log, terminal


def test_shows_the_stages_lines_alone() -> None:
    filtered, log, terminal = screen()
    for start in range(0, len(RECORDED), 7):  # lines arrive in pieces
        filtered.write(RECORDED[start : start + 7])
    assert terminal.getvalue().splitlines() == [
        "[pretrain] started",
        "[pretrain] 10/50 it, 2.0/s, 20 s left | loss -3.1",
        "[pretrain] done in 25.1 s: /out/pretrain/0123",
    ]
    assert [line[9:] for line in log.getvalue().splitlines()] == RECORDED.splitlines()
    assert filtered.results == {"pretrain": "/out/pretrain/0123"}
    assert filtered.running == {}
    assert filtered.failures == {}


def test_debug_shows_everything() -> None:
    filtered, _, terminal = screen(echo=True)
    filtered.write(RECORDED)
    assert len(terminal.getvalue().splitlines()) == len(RECORDED.splitlines())


def test_a_failure_keeps_its_cause() -> None:
    filtered, _, terminal = screen()
    filtered.write("[propose 0/2] started (process 4000000)\n[propose 0/2] error: a.jpg: gone\n")
    assert filtered.failures == {"propose 0/2": "a.jpg: gone"}
    assert terminal.getvalue().endswith("[propose 0/2] error: a.jpg: gone\n")


def test_progress_of_a_shard() -> None:
    filtered, _, terminal = screen()
    filtered.write("[propose 1/32] started (process 4000000)\n")
    filtered.write("    [propose 1/32] proposals: 7/9 images, 2.0/s, 1 s left\n")
    filtered.write("[propose 1/32] done in 4.1 s: /out/proposals/0123\n")
    assert terminal.getvalue().splitlines() == [
        "[propose 1/32] started",
        "[propose 1/32] 7/9 images, 2.0/s, 1 s left",
        "[propose 1/32] done in 4.1 s: /out/proposals/0123",
    ]


def test_what_the_label_says_is_not_said_again() -> None:
    filtered, _, terminal = screen()
    label = "[finetune voc-c4 MoCo v2]"
    filtered.write(f"{label} started (process 4000000)\n")
    for text in ("finetune MoCo v2: 1/4 steps", "voc-c4: shortened", "warning: 3 images", "MoCo v3: gone"):
        filtered.write(f"{label} {text}\n")
    assert terminal.getvalue().splitlines()[1:] == [
        f"{label} 1/4 steps",
        f"{label} shortened",
        f"{label} warning: 3 images",
        f"{label} MoCo v3: gone",
    ]


def test_a_failure_counts_when_no_retry_is_left() -> None:
    filtered, _, terminal = screen(retries={"propose": 1})
    for pid in (4000000, 4000001):
        assert filtered.failures == {}
        filtered.write(f"[propose 0/2] started (process {pid})\n[propose 0/2] error: no\n")
    assert filtered.failures == {"propose 0/2": "no"}
    assert terminal.getvalue().splitlines() == [
        "[propose 0/2] started",
        "[propose 0/2] error: no (to be tried again)",
        "[propose 0/2] started again (1 of 1 retries)",
        "[propose 0/2] error: no",
    ]


def test_shards_have_retries_of_their_own() -> None:
    filtered, _, _ = screen(retries={"propose": 1})
    for index in range(3):
        filtered.write(f"[propose {index}/3] started (process 4000000)\n[propose {index}/3] error: no\n")
    assert filtered.failures == {}


@pytest.mark.parametrize("how", ["failed", "stopped"])
@pytest.mark.parametrize(
    "announcement",
    [
        "10:00:00.000 - INFO - Executing task \x1b[96m'convert'\x1b[0m",
        "10:00:00.000 - INFO - Task propose failed (attempt 1/4). Retrying in 1.0s...",
    ],
)
def test_a_run_that_fails_or_stops_is_left(how: str, announcement: str) -> None:
    filtered, log, _ = screen()
    filtered.write(f"{announcement}\n")
    if how == "failed":
        filtered.write("[pretrain] started (process 4000000)\n[pretrain] error: no\n")
    else:
        filtered.stop()
    filtered.write("10:00:00.000 - INFO - Task 'pretrain' finished with status FAILURE\n")
    with pytest.raises(RunEnded):
        filtered.write(f"{announcement}\n")
    assert log.getvalue().endswith(f"{announcement}\n")
    filtered.write("[pretrain] other stages may still speak\n")


def test_a_stage_that_ends_without_a_word_is_still_known() -> None:
    filtered, _, _ = screen()
    filtered.write("[convert] started (process 4000000)\n")
    assert filtered.running == {"convert": StageProcess(4000000, "")}


def test_threads_do_not_mix_their_lines() -> None:
    filtered, _, terminal = screen()
    filtered.write("[propose 0/2] started (process 4000000)\n[propose 1/2] started (process 4000001)\n")
    halfway, other = threading.Event(), threading.Event()

    def first() -> None:
        filtered.write("    ")
        filtered.write("[propose 0/2] 1/")
        halfway.set()
        other.wait(10)
        filtered.write("9 images\n")

    def second() -> None:
        halfway.wait(10)
        filtered.write("    [propose 1/2] 5/9 images\n")
        other.set()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert terminal.getvalue().splitlines()[2:] == ["[propose 1/2] 5/9 images", "[propose 0/2] 1/9 images"]


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)


def test_stop_asks_first_and_kills_then() -> None:
    filtered, _, _ = screen()
    polite = sleeper()
    filtered.write(f"[pretrain] started (process {polite.pid})\n")
    filtered.stop()
    assert polite.wait(10) == -signal.SIGTERM
    late = sleeper()
    filtered.write(f"[convert] started (process {late.pid})\n")
    assert late.wait(10) == -signal.SIGTERM
    stubborn = sleeper()
    filtered.running["report"] = StageProcess(stubborn.pid, "")
    filtered.stop()
    assert stubborn.wait(10) == -signal.SIGKILL


def test_a_stage_in_a_container_is_asked_there() -> None:
    asked: list[tuple[StageProcess, bool]] = []
    filtered = Screen(io.StringIO(), io.StringIO(), send=lambda process, at_once: asked.append((process, at_once)))
    filtered.write("[pretrain] started (process 8 in container 3f2a9c0b1d2e)\n")
    filtered.stop()
    filtered.stop()
    where = StageProcess(8, "3f2a9c0b1d2e")
    assert asked == [(where, False), (where, True)]


def test_nothing_new_starts_after_a_failure() -> None:
    filtered, _, terminal = screen()
    filtered.write("[pretrain] started (process 4000000)\n[pretrain] error: no\n")
    late = sleeper()
    filtered.write(f"[finetune Scratch] started (process {late.pid})\n[finetune Scratch] stopped: kept\n")
    assert late.wait(10) == -signal.SIGTERM
    assert list(filtered.failures) == ["pretrain"]
    assert "Scratch" not in terminal.getvalue()


def test_frame_and_screen_speak_the_same(tmp_path: Path) -> None:
    """The lines of the real frame, read by the real filter."""
    frame = (
        "from soco_core.engine.component import stage_process\n"
        "from soco_core.errors import InputError\n"
        "with stage_process('plan') as stage: stage.result = '/r'\n"
        "with stage_process('report'): raise InputError('no')\n"
    )
    done = subprocess.run([sys.executable, "-c", frame], stderr=subprocess.PIPE, text=True, check=False)
    filtered, _, _ = screen()
    filtered.write(done.stderr)
    assert filtered.results == {"plan": "/r"}
    assert filtered.failures == {"report": "no"}

"""Local runs for real, through kfp.local, with stages that only write their result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from soco_core import storage

STAGES = "demo_data,plan,plan_proposals,propose 1/2,propose 2/2,merge_proposals,pretrain,convert,benchmark,report"
UNTRACKED = {"FAKE_UNTRACKED": "1"}


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def log_of(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("out/logs/*-demo.log")))


def test_run_and_run_again(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, err = finish(start(**UNTRACKED))
    assert status == 0, err + log_of(tmp_path)
    lines = err.splitlines()
    assert lines[0] == f"full_benchmark: recipe demo, results in {tmp_path}/out"
    assert re.fullmatch(rf"log: {tmp_path}/out/logs/\d{{8}}-\d{{6}}-demo\.log", lines[1])
    shown = lines[2:-1]
    assert all(re.match(r"\[[a-zA-Z_ /0-9]+\] ", line) for line in shown), err
    labels = [line.split("]")[0][1:] for line in shown if line.endswith("] started")]
    assert sorted(labels) == sorted(f"{STAGES},finetune Scratch,finetune SoCo".split(","))
    assert [line for line in shown if line.startswith("[pretrain] ")][1] == "[pretrain] 1/2 it, 1.0/s"
    assert re.fullmatch(r"finished in \d+ s", lines[-1])
    result = next((tmp_path / "out" / "report").iterdir())
    assert out.splitlines() == [
        "| method | APbb |",
        "|---|---|",
        "| Scratch | 12.5 |",
        "| SoCo | 12.5 |",
        "",
        f"report: {result}/report.html",
        f"        {result}/report.md",
    ]
    assert "a library speaks" not in err
    assert "a library speaks" in log_of(tmp_path)
    assert not list(tmp_path.glob("soco-run-*"))

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*/done.json")}
    status, again, err = finish(start(**UNTRACKED))
    assert (status, again) == (0, out)
    assert err.count("already done, nothing to compute") == len(before) == 8
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*/done.json")}


@pytest.mark.parametrize(
    ("how", "stage", "label", "cause"),
    [
        ("FAKE_FAIL", "pretrain", "pretrain", "weights.pth: damaged; download it again"),
        ("FAKE_CRASH", "convert", "convert", "ZeroDivisionError: division by zero"),
        ("FAKE_KILLED", "proposals", "merge_proposals", "ended without a word (killed, perhaps for want of memory)"),
        ("FAKE_FAIL", "propose", "propose [12]/2", "weights.pth: damaged; download it again"),
    ],
)
def test_a_failure_names_stage_cause_and_log(
    start,
    tmp_path: Path,
    how: str,
    stage: str,
    label: str,
    cause: str,  # type: ignore[no-untyped-def]
) -> None:
    status, out, err = finish(start("--shard-retries", "0", **UNTRACKED, **{how: stage}))
    assert (status, out) == (1, ""), err
    lines = err.splitlines()
    # Both shards fail; the one that does so first is named.
    assert any(re.fullmatch(f"error: {label}: {re.escape(cause)}", line) for line in lines)
    assert lines[-1].startswith(f"log: {tmp_path}/out/logs/")
    assert "Traceback" not in err
    assert "Traceback" in log_of(tmp_path)
    assert "[report] started" not in err


def test_images_on_s3(s3: str, start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    storage.write_bytes(f"{s3}/images/a.jpg", b"not looked into")
    coco = write_coco(tmp_path / "coco")
    status, _, err = finish(start("--images", f"{s3}/images", "--coco", coco.name, **UNTRACKED))
    assert status == 0, err + log_of(tmp_path)
    (done,) = tmp_path.glob("out/plan/*/done.json")
    inputs = json.loads(done.read_text())["determined_by"]["inputs"]
    assert (inputs["images"], inputs["coco"]) == (f"{s3}/images", str(coco))
    assert "[demo_data]" not in err

    status, _, err = finish(start("--images", f"{s3}/nothing", "--coco", coco.name, **UNTRACKED))
    assert (status, err) == (
        2,
        f"error: {s3}/nothing: nothing lies there; give the URI of a folder of images or of a pack\n",
    )


def write_coco(folder: Path) -> Path:
    """Write a data set of one image with one object."""
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "images" / "a.jpg").write_bytes(b"not looked into")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 7,
                "image_id": 1,
                "category_id": 1,
                "bbox": [2, 2, 4, 4],
                "area": 16,
                "iscrowd": 0,
                "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]],
            }
        ],
    }
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def started_shards(folder: Path) -> set[str]:
    """Shards of which a process was started, shown on the screen or not."""
    return set(re.findall(r"\[(propose \d+/\d+)\] started \(process", log_of(folder)))


@pytest.mark.parametrize("how", ["FAKE_FAIL", "FAKE_KILLED"])
def test_each_failed_shard_is_tried_again(start, tmp_path: Path, how: str) -> None:  # type: ignore[no-untyped-def]
    once = {"FAKE_ONCE": str(tmp_path), how: "propose"}
    status, _, err = finish(start("--shards", "3", "--shard-retries", "1", **UNTRACKED, **once))
    assert status == 0, err + log_of(tmp_path)
    for number in range(1, 4):
        shown = [line.partition("] ")[2] for line in err.splitlines() if line.startswith(f"[propose {number}/3] ")]
        failed = ["error: weights.pth: damaged; download it again (to be tried again)"]
        assert [line for line in shown if "done" not in line and "1/2 it" not in line] == [
            "started",
            *(failed if how == "FAKE_FAIL" else []),
            "started again (1 of 1 retries)",
        ]
    assert "[merge_proposals] started" in err


def test_after_the_last_retry_nothing_new_is_started(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, _, err = finish(start("--shards", "9", "--shard-retries", "1", **UNTRACKED, FAKE_FAIL="propose"))
    assert status == 1, err
    assert re.search(r"^error: propose [1-9]/9: weights.pth: damaged; download it again$", err, re.MULTILINE)
    assert "started again (2 of" not in err
    # Two at a time, and the second may be through with its own retries when the first gives up.
    assert 2 <= len(started_shards(tmp_path)) <= 4
    assert "[merge_proposals]" not in err


def test_debug_shows_the_traceback(start) -> None:  # type: ignore[no-untyped-def]
    status, _, err = finish(start("--debug", **UNTRACKED, FAKE_FAIL="pretrain"))
    assert status == 1
    assert "Traceback" in err
    assert "a library speaks" in err


@pytest.fixture(params=[{}])
def slow(start, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:  # type: ignore[no-untyped-def]
    """A run whose pretraining has begun to work, with a worker, and would never end."""
    process = start(FAKE_SLOW="pretrain", **UNTRACKED, **request.param)
    end = time.monotonic() + 100
    while len(list(tmp_path.glob("out/pretrain/*/beat-*"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def beats(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("out/pretrain/*/beat-*")}


def assert_no_stage_lives(folder: Path) -> None:
    """Within 2 s nothing writes any more, and no process is left that the run started."""
    end = time.monotonic() + 2
    while stage_processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert stage_processes(folder) == []
    before = beats(folder)
    time.sleep(0.3)
    assert beats(folder) == before


def stage_processes(folder: Path) -> list[int]:
    """Processes whose environment names this test's folder and a pipeline, and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes()
            dead = (path / "stat").read_text().rpartition(") ")[2].startswith("Z")
        except OSError:
            continue
        if not dead and b"SOCO_PIPELINE_PID" in environment and str(folder).encode() in environment:
            found.append(int(path.name))
    return found


@pytest.mark.parametrize("slow", [{"FAKE_STUBBORN": "1"}], indirect=True, ids=["stubborn worker"])
@pytest.mark.parametrize("whole_group", [False, True], ids=["command alone", "process group"])
def test_no_orphan_after_sigkill_and_it_goes_on(
    slow: subprocess.Popen[str],
    start,
    tmp_path: Path,
    whole_group: bool,  # type: ignore[no-untyped-def]
) -> None:
    assert len(stage_processes(tmp_path)) >= 2
    if whole_group:
        os.killpg(slow.pid, signal.SIGKILL)
    else:
        os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    assert_no_stage_lives(tmp_path)
    done = len(list(tmp_path.glob("out/*/*/done.json")))
    status, _, err = finish(start(**UNTRACKED))
    assert status == 0, err
    assert err.count("already done, nothing to compute") == done >= 3
    assert len(list(tmp_path.glob("out/pretrain/*"))) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(slow: subprocess.Popen[str], tmp_path: Path, number: signal.Signals) -> None:
    os.kill(slow.pid, number)
    status, out, err = finish(slow)
    assert (status, out) == (130, ""), err
    assert "[pretrain] stopped: what was finished is kept" in err
    assert err.splitlines()[-1] == "stopped; run the same command again to go on"
    assert "Traceback" not in err
    assert "[convert] started" not in err
    assert_no_stage_lives(tmp_path)


def test_asked_to_stop_no_other_shard_is_started(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    process = start("--shards", "40", **UNTRACKED, FAKE_SLOW="propose")
    end = time.monotonic() + 100
    while len(list(tmp_path.glob("out/shards/*/beat-worker"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out) == (130, ""), err
    assert len(started_shards(tmp_path)) <= 3
    assert err.count("stopped: what was finished is kept") == 2
    assert "tried again" not in err
    assert err.splitlines()[-1] == "stopped; run the same command again to go on"
    assert_no_stage_lives(tmp_path)


def test_metrics_reach_the_kubeflow_ui(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The log holds what each task handed on, as kfp read it back."""
    finish(start(**UNTRACKED))
    log = log_of(tmp_path)
    assert "metadata={'APbb': 12.5}" in log.replace('"', "'")
    assert json.loads((next((tmp_path / "out" / "plan").iterdir()) / "done.json").read_text())["summary"]

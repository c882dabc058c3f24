"""A server that goes away, comes back, or never answers: nothing waits for it, and it gets everything later."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.errors import InterruptedStageError
from soco_core.recipes import load_recipe
from soco_core.tracking import Tracker, TrackingContext, delivery, spool, tracker
from soco_core.tracking.spool import Spool
from tests.conftest import MlflowServer

RECIPE = load_recipe("demo")
STEPS = 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@pytest.fixture
def result(tmp_path: Path) -> ResultDirectory:
    return find(tmp_path)


def find(output: Path) -> ResultDirectory:
    return locate(str(output), "pretrain", 1, RECIPE, ("seed",), {})


def training(at: dict[int, Callable[[], None]], pause: float = 0.0) -> Any:
    """Return a stage of STEPS steps, in which something happens before some of them."""

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        for step in range(STEPS):
            at.get(step, lambda: None)()
            tracker.log(step, {"loss": -step / 2, "rate": 1.0})
            time.sleep(pause)
        (result.path / "report.md").write_text("whole")
        return {"images": 7}

    return compute


def runs_of(server: MlflowServer, result: ResultDirectory) -> list[Run]:
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("soco")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`soco.result` = '{result.uri}'"))


def history(server: MlflowServer, run: Run) -> list[tuple[int, float]]:
    points = MlflowClient(server.uri).get_metric_history(run.info.run_id, "loss")
    assert [p.timestamp for p in points] == sorted(p.timestamp for p in points)
    return [(p.step, p.value) for p in points]


def check_whole(server: MlflowServer, result: ResultDirectory) -> None:
    (run,) = runs_of(server, result)
    assert run.info.status == "FINISHED"
    assert history(server, run) == [(step, -step / 2) for step in range(STEPS)]
    assert run.data.metrics == {"loss": -(STEPS - 1) / 2, "rate": 1.0, "images": 7.0}
    files = {file.path for file in MlflowClient(server.uri).list_artifacts(run.info.run_id)}
    assert {"config.yaml", "done.json", "report.md"} <= files
    assert not list(result.path.glob(".mlflow-*"))


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_comes_back_has_all_points_in_order(
    mlflow_server: MlflowServer, result: ResultDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {10: lambda: time.sleep(0.5), 12: mlflow_server.stop, 25: lambda: time.sleep(1.0), 26: mlflow_server.start}
    complete(result, RECIPE, TrackingContext(mlflow_server.uri, ""), training(at))
    check_whole(mlflow_server, result)
    printed, said = capsys.readouterr()
    assert printed == ""  # there a command says where its result lies, and nothing else
    assert said.count("warning: MLflow at") == 1
    assert said.count("answers again, and has everything") == 1


@pytest.mark.parametrize("gone_at", [0, 20])
def test_what_a_server_did_not_get_it_gets_when_the_same_command_runs_again(
    mlflow_server: MlflowServer,
    result: ResultDirectory,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    gone_at: int,
) -> None:
    """Away from the middle of the stage on, and from before its beginning."""
    context = TrackingContext(mlflow_server.uri, "")
    if gone_at == 0:
        mlflow_server.stop()
    complete(result, RECIPE, context, training({gone_at: mlflow_server.stop}))
    said = capsys.readouterr().err
    (kept,) = result.path.glob(".mlflow-*.jsonl")
    assert f"is kept in {kept}; the same command delivers it" in said
    assert kept.name not in (result.path / "done.json").read_text()
    complete(find(tmp_path), RECIPE, context, training({}))  # still away: nothing is lost
    assert kept.exists()
    mlflow_server.start()
    complete(find(tmp_path), RECIPE, context, training({}))
    check_whole(mlflow_server, result)
    (run,) = runs_of(mlflow_server, result)
    assert "soco.reused" not in run.data.tags
    # The end is the stage's, not the delivery's.
    assert run.info.end_time <= (result.path / "done.json").stat().st_mtime * 1000 + 1000


def test_a_stage_that_was_stopped_while_the_server_was_away_goes_on_as_the_same_run(
    mlflow_server: MlflowServer, result: ResultDirectory, tmp_path: Path
) -> None:
    def stopped() -> None:
        raise InterruptedStageError("stopped")

    context = TrackingContext(mlflow_server.uri, "")
    with pytest.raises(InterruptedStageError):
        complete(result, RECIPE, context, training({15: mlflow_server.stop, 30: stopped}))
    mlflow_server.start()

    def rest(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        for step in range(30, STEPS):
            tracker.log(step, {"loss": -step / 2, "rate": 1.0})
        (result.path / "report.md").write_text("whole")
        return {"images": 7}

    complete(find(tmp_path), RECIPE, context, rest)
    check_whole(mlflow_server, result)


KILLED = """
import os, sys
from soco_core.artifacts.result import locate
from soco_core.artifacts.stage import complete
from soco_core.recipes import load_recipe
from soco_core.tracking import TrackingContext
recipe = load_recipe("demo")
def compute(result, tracker):
    for step in range(30):
        tracker.log(step, {"loss": -step / 2, "rate": 1.0})
    os.kill(os.getpid(), 9)
complete(locate(sys.argv[1], "pretrain", 1, recipe, ("seed",), {}), recipe, TrackingContext(sys.argv[2], ""), compute)
"""


def test_a_stage_that_was_killed_has_kept_what_the_server_did_not_get(
    mlflow_server: MlflowServer, result: ResultDirectory, tmp_path: Path
) -> None:
    mlflow_server.stop()
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), mlflow_server.uri], check=False)
    assert done.returncode == -9
    (kept,) = result.path.glob(".mlflow-*.jsonl")
    with kept.open("a") as file:
        file.write('{"point": [30, 1, {"lo')  # a line that was cut short
    mlflow_server.start()

    def rest(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        for step in range(30, STEPS):
            tracker.log(step, {"loss": -step / 2, "rate": 1.0})
        (result.path / "report.md").write_text("whole")
        return {"images": 7}

    complete(find(tmp_path), RECIPE, TrackingContext(mlflow_server.uri, ""), rest)
    check_whole(mlflow_server, result)


def test_a_server_that_never_answers_holds_up_no_step(
    mlflow_server: MlflowServer,
    result: ResultDirectory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracker, "END_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    context = TrackingContext(mlflow_server.uri, "")
    slowest: list[float] = []

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        for step in range(STEPS):
            if step == 10:
                mlflow_server.hang()
            began = time.monotonic()
            tracker.log(step, {"loss": -step / 2, "rate": 1.0})
            slowest.append(time.monotonic() - began)
            time.sleep(0.05)
        (result.path / "report.md").write_text("whole")
        return {"images": 7}

    began = time.monotonic()
    complete(result, RECIPE, context, compute)
    assert max(slowest) < 0.5
    assert time.monotonic() - began < 30
    assert "is kept in" in capsys.readouterr().err
    mlflow_server.go_on()
    monkeypatch.setattr(tracker, "END_SECONDS", 30.0)
    for _ in range(5):  # what the server had taken before it hung may still be in the way of the same points
        complete(find(tmp_path), RECIPE, context, compute)
        if "cannot be written" not in capsys.readouterr().err:
            break
        time.sleep(1.0)
    check_whole(mlflow_server, result)


def test_a_process_ends_though_the_server_never_answers(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    mlflow_server.hang()
    began = time.monotonic()
    program = KILLED.replace("os.kill(os.getpid(), 9)", "return {}").replace(
        "recipe = ", "from soco_core.tracking import tracker as t\nt.START_SECONDS = t.END_SECONDS = 1.0\nrecipe = "
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), mlflow_server.uri], check=True, env=os.environ)
    assert done.returncode == 0
    assert time.monotonic() - began < 60


def test_a_full_disk_loses_no_point(
    mlflow_server: MlflowServer, result: ResultDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory keeps them until there is room."""
    full = threading.Event()
    original = spool.write_text

    def write_text(*arguments: Any) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(spool, "write_text", write_text)
    kept: list[bool] = []

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        place = tracker._spool
        assert place is not None
        for step in range(STEPS):
            if step == 10:
                mlflow_server.stop()
                full.set()
                place._file.close()  # type: ignore[union-attr]
                place._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
            if step == 30:
                kept.append(place.keep())
                full.clear()
                kept.append(place.keep())
                assert len(Spool(result.path, TrackingContext(mlflow_server.uri, "").place)._points) >= 20
                mlflow_server.start()
            tracker.log(step, {"loss": -step / 2, "rate": 1.0})
        (result.path / "report.md").write_text("whole")
        return {"images": 7}

    complete(result, RECIPE, TrackingContext(mlflow_server.uri, ""), compute)
    assert kept == [False, True]
    check_whole(mlflow_server, result)


def test_a_spool_is_bounded_and_keeps_the_length_of_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = 100
    monkeypatch.setattr(spool, "MOST_POINTS", few)
    place = Spool(tmp_path, "here")
    place.open("pretrain", {}, "")
    for step in range(10 * few):
        place.add(step, {"loss": float(step)})
    assert place.keep()
    steps = [step for step, _, _ in Spool(tmp_path, "here").take(10 * few)]
    assert few / 2 <= len(steps) <= few
    assert steps == sorted(steps)
    # No part of the curve is left out.
    assert max(after - before for before, after in itertools.pairwise([0, *steps, 10 * few])) <= 32
    assert place.path.stat().st_size < 100 * few


def test_points_that_are_not_numbers_go_through_the_file(tmp_path: Path) -> None:
    place = Spool(tmp_path, "here")
    place.open("pretrain", {}, "")
    place.add(1, {"loss": float("nan"), "rate": float("inf")})
    ((step, _, values),) = Spool(tmp_path, "here").take(5)
    assert (step, str(values)) == (1, "{'loss': nan, 'rate': inf}")


def test_what_is_sent_leaves_the_file_and_what_is_given_back_stays(tmp_path: Path) -> None:
    place = Spool(tmp_path, "here")
    place.open("pretrain", {}, "")
    for step in range(5):
        place.add(step, {"loss": 1.0})
    assert [step for step, _, _ in place.take(2)] == [0, 1]
    place.give_back()
    assert [step for step, _, _ in place.take(3)] == [0, 1, 2]
    place.sent()
    place.take(9)
    place.sent()
    assert place.path.read_text().count("\n") == 1
    place.add(5, {"loss": 1.0})
    place.close("FINISHED", {"a": 1})
    again = Spool(tmp_path, "here")
    assert [step for step, _, _ in again.take(9)] == [5]
    assert again.end is not None
    assert again.end["summary"] == {"a": 1}

"""Tracking in a real SQLite store of MLflow, shared by the module because creating one takes seconds."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

from soco_core import tracking
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.errors import InputError, InterruptedStageError
from soco_core.plan.stage import plan
from soco_core.recipes import load_recipe
from soco_core.tracking import (
    Tracker,
    TrackingContext,
    check_tracking_uri,
    default_store,
    end_pipeline_run,
    start_pipeline_run,
    without_password,
)
from soco_core.tracking.delivery import known_runs

RECIPE = load_recipe("demo")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return default_store(tmp_path_factory.mktemp("a store"))


@pytest.fixture(scope="module")
def client(store: str) -> mlflow.MlflowClient:
    with tracking.quiet_mlflow():
        return mlflow.MlflowClient(tracking_uri=store)


@pytest.fixture
def context(store: str) -> TrackingContext:
    return start_pipeline_run(store, "a run", RECIPE, {"soco.pipeline": "full"})


def children(client: mlflow.MlflowClient, parent: str) -> list[Run]:
    experiment = client.get_experiment_by_name("soco")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    return list(found)


def find(output: Path) -> ResultDirectory:
    return locate(str(output), "pretrain", 1, RECIPE, ("seed",), {})


def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
    (result.path / "figures").mkdir(exist_ok=True)
    (result.path / "figures" / "loss.png").write_bytes(b"png")
    (result.path / "weights.safetensors").write_bytes(b"large")
    (result.path / ".hidden.json").write_bytes(b"{}")
    for step in (0, 10):
        tracker.log(step, {"loss": -step / 2})
    return {"AP": {"APbb": 12.5, "APmk": None}, "images": 7, "name": "x", "whole": True}


def test_the_parent_run_holds_recipe_tags_and_parameters(client: mlflow.MlflowClient, context: TrackingContext) -> None:
    run = client.get_run(context.parent)
    assert (run.info.run_name, run.info.status) == ("a run", "RUNNING")
    assert run.data.tags["soco.recipe"] == "demo"
    assert run.data.tags["soco.pipeline"] == "full"
    assert run.data.params["pretrain.epochs"] == str(RECIPE.pretrain.epochs)
    assert run.data.params["model.level_limits"] == str(list(load_recipe("demo").model.level_limits))
    assert len(run.data.params) == sum(
        len(part) if isinstance(part, dict) else 1 for part in RECIPE.model_dump().values()
    )
    text = Path(client.download_artifacts(context.parent, "config.yaml")).read_text()
    assert text == RECIPE.to_yaml()
    end_pipeline_run(context, succeeded=False)
    assert client.get_run(context.parent).info.status == "FAILED"


def test_a_stage_is_a_child_with_curves_numbers_and_files(
    client: mlflow.MlflowClient, context: TrackingContext, tmp_path: Path
) -> None:
    result = complete(find(tmp_path), RECIPE, context, compute, label="pretrain demo")
    (run,) = children(client, context.parent)
    assert (run.info.run_name, run.info.status) == ("pretrain demo", "FINISHED")
    assert run.data.tags["soco.stage"] == "pretrain"
    assert run.data.tags["soco.result"] == result.uri
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")] == [
        (0, 0.0),
        (10, -5.0),
    ]
    assert run.data.metrics == {"loss": -5.0, "AP.APbb": 12.5, "images": 7.0}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
        "config.yaml",
        "done.json",
        "figures",
    ]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/loss.png"]


def test_artifacts_lie_beside_the_store(client: mlflow.MlflowClient, store: str, context: TrackingContext) -> None:
    folder = Path(store.removeprefix("sqlite:///")).parent
    assert list((folder / "mlartifacts").glob(f"{context.parent}/*/config.yaml"))


def test_an_interrupted_child_is_killed_and_goes_on_as_the_same_run(
    client: mlflow.MlflowClient, context: TrackingContext, tmp_path: Path
) -> None:
    def interrupted(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        tracker.log(5, {"loss": 1.0})
        raise InterruptedStageError("stopped")

    with pytest.raises(InterruptedStageError):
        complete(find(tmp_path), RECIPE, context, interrupted)
    (first,) = children(client, context.parent)
    assert first.info.status == "KILLED"
    complete(find(tmp_path), RECIPE, context, compute)
    (second,) = children(client, context.parent)
    assert (second.info.run_id, second.info.status) == (first.info.run_id, "FINISHED")
    assert {point.step for point in client.get_metric_history(second.info.run_id, "loss")} == {0, 5, 10}


def test_a_child_that_failed_is_shown_so(client: mlflow.MlflowClient, context: TrackingContext, tmp_path: Path) -> None:
    def broken(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        complete(find(tmp_path), RECIPE, context, broken)
    assert [run.info.status for run in children(client, context.parent)] == ["FAILED"]


def test_a_reused_result_is_shown_under_each_parent_once(
    client: mlflow.MlflowClient, store: str, context: TrackingContext, tmp_path: Path
) -> None:
    complete(find(tmp_path), RECIPE, context, compute)
    complete(find(tmp_path), RECIPE, context, compute)
    assert len(children(client, context.parent)) == 1
    second = start_pipeline_run(store, "again", RECIPE, {})
    for _ in range(2):
        complete(find(tmp_path), RECIPE, second, compute)
    (run,) = children(client, second.parent)
    assert run.data.tags["soco.reused"] == "true"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["AP.APbb"] == 12.5
    assert "soco.reused" not in children(client, context.parent)[0].data.tags


def test_a_stage_that_runs_alone_is_a_run_without_a_parent(
    client: mlflow.MlflowClient, store: str, tmp_path: Path
) -> None:
    result = complete(find(tmp_path), RECIPE, TrackingContext(store, ""), compute)
    (run_id,) = json.loads((result.path / ".mlflow.json").read_text()).values()
    assert "mlflow.parentRunId" not in client.get_run(run_id).data.tags


def test_a_run_that_somebody_deleted_is_made_anew(
    client: mlflow.MlflowClient, context: TrackingContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        raise InterruptedStageError("stopped")

    with pytest.raises(InterruptedStageError):
        complete(find(tmp_path), RECIPE, context, interrupted)
    (first,) = children(client, context.parent)
    client.delete_run(first.info.run_id)
    complete(find(tmp_path), RECIPE, context, compute)
    (second,) = children(client, context.parent)
    assert second.info.run_id != first.info.run_id
    assert "warning" not in capsys.readouterr().err


def test_a_damaged_note_of_the_runs_stops_nothing(context: TrackingContext, tmp_path: Path) -> None:
    result = complete(find(tmp_path), RECIPE, None, compute)
    for text in ("{", "[]", "3", "\x00"):
        (result.path / ".mlflow.json").write_text(text)
        assert known_runs(result.path) == {}


def test_without_a_context_nothing_is_tracked(tmp_path: Path) -> None:
    result = complete(find(tmp_path), RECIPE, None, compute)
    assert not (result.path / ".mlflow.json").exists()


@pytest.mark.parametrize("uri", ["http://me:hunter2@127.0.0.1:1", "ftp://me:hunter2@nowhere", "http://[me:hunter2@x"])
def test_a_server_that_is_not_there_is_said_without_its_password(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for _ in range(2):  # computed, and already done
        result = complete(find(tmp_path), RECIPE, TrackingContext(uri, "parent"), compute)
        said = capsys.readouterr().err
        assert result.summary["images"] == 7
        assert said.count("warning: MLflow at ") == 1
        assert said.count("warning: what MLflow did not get of this stage is kept in ") == 1
        assert said.count("warning") == 2
        assert "hunter2" not in said
    for path in result.path.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host:5432/db", "postgresql://host:5432/db"),
        ("http://me:p%40w@host/a@b", "http://host/a@b"),
        ("http://host/path", "http://host/path"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_user_and_password(text: str, shown: str) -> None:
    assert without_password(text, text) == shown


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        ("http://me:pw@host/path", True),
        ("postgresql+psycopg2://me:p@w@host:5432/db", True),
        ("http://me:p/w@host/path", True),
        ("http://me@host", False),
        ("http://[::1]:5000/a@b", False),
        ("http://host:5000/a:b@c", False),
        ("sqlite:////a:b@c/mlflow.db", False),
    ],
)
def test_a_run_is_not_given_an_address_with_a_password(uri: str, refused: bool) -> None:
    if refused:
        shown = uri.replace("me:pw@", "").replace("me:p@w@", "").replace("me:p/w@", "")
        with pytest.raises(InputError, match=rf"^the tracking URI {re.escape(shown)} holds a password, .*_PASSWORD"):
            check_tracking_uri(uri)
        with pytest.raises(InputError, match="holds a password"):
            plan(RECIPE, images="none", coco="none", output="none", tracking_uri=uri)
    else:
        check_tracking_uri(uri)


@pytest.mark.parametrize("uri", ["runs/mlflow", "file:///mlruns", "ftp://host", "host:5000"])
def test_an_address_that_mlflow_has_no_store_for_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=rf"^the tracking URI {re.escape(uri)}: not one of MLflow's; give a server"):
        check_tracking_uri(uri)


def test_a_bare_password_is_hidden_too() -> None:
    assert without_password("login of me with pw-1 failed", "http://me:pw-1@host") == "login of me with *** failed"


def test_a_context_goes_through_text(monkeypatch: pytest.MonkeyPatch) -> None:
    context = TrackingContext("http://host", "abc")
    assert TrackingContext.from_json(context.to_json()) == context
    assert TrackingContext.from_json("") is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert TrackingContext.from_environment() is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert TrackingContext.from_environment() == TrackingContext("http://host", "")


def test_logging_costs_next_to_nothing_between_two_flushes(context: TrackingContext, tmp_path: Path) -> None:
    tracker = Tracker(context, tmp_path)
    tracker.start("pretrain", RECIPE, {})
    began = time.process_time()
    for step in range(1000):
        tracker.log(step, {"loss": 1.0, "rate": 2.0})
    assert time.process_time() - began < 1.0
    tracker.finish({})

"""MLflow as a cluster has it: the command `mlflow server`, PostgreSQL behind it, artifacts on S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient

from soco_core.artifacts.result import ResultDirectory
from soco_core.artifacts.stage import complete
from soco_core.recipes import load_recipe
from soco_core.storage import split_s3
from soco_core.tracking import (
    Tracker,
    TrackingContext,
    delivery,
    end_pipeline_run,
    start_pipeline_run,
)
from tests.services import ClusterMlflow, PostgresServer
from tests.tracking.test_outages import STEPS, check_whole, find, training

RECIPE = load_recipe("demo")
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "of-the-client-7f3a",
    "AWS_SESSION_TOKEN": "session-of-the-client-11c4",
    "PGPASSWORD": "of-the-clients-database-e62d",
    "MLFLOW_TRACKING_USERNAME": "user-of-mlflow-51be",
    "MLFLOW_TRACKING_PASSWORD": "password-of-mlflow-c09d",
}


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def artifacts(server: ClusterMlflow) -> dict[str, bytes]:
    """Return what lies in the artifact store, by key."""
    bucket, prefix = split_s3(server.artifacts)
    store = boto3.client(
        "s3",
        endpoint_url=server.secrets["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id="any",
        aws_secret_access_key="any",
        region_name="us-east-1",
    )
    keys = [entry["Key"] for entry in store.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]
    return {key: store.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_a_tree_of_runs_with_curves_and_artifacts_on_s3(
    cluster_mlflow: ClusterMlflow, postgres: PostgresServer, tmp_path: Path
) -> None:
    client = MlflowClient(cluster_mlflow.uri)
    context = start_pipeline_run(cluster_mlflow.uri, "a run", RECIPE, {"soco.pipeline": "full"})

    def convert(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        return {"keys": 3}

    complete(find(tmp_path / "a"), RECIPE, context, training({}), label="pretrain demo")
    complete(find(tmp_path / "b"), RECIPE, context, convert, label="convert demo")
    end_pipeline_run(context, succeeded=True)

    parent = client.get_run(context.parent)
    assert (parent.info.status, parent.data.params["pretrain.epochs"]) == ("FINISHED", str(RECIPE.pretrain.epochs))
    found = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{context.parent}'")
    children = {run.info.run_name: run for run in found}
    assert {name: run.info.status for name, run in children.items()} == {
        "pretrain demo": "FINISHED",
        "convert demo": "FINISHED",
    }
    pretrained = children["pretrain demo"].info
    curve = client.get_metric_history(pretrained.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(step, -step / 2) for step in range(STEPS)]
    rows = postgres.rows()
    assert sum(row.startswith("metrics: (loss,") and pretrained.run_id in row for row in rows) == STEPS
    # The client, which has no credentials of the store, sends and reads them through the server.
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:/")
    stored = artifacts(cluster_mlflow)
    assert all(key.startswith("artifacts/") for key in stored)
    (report,) = [data for key, data in stored.items() if key.endswith(f"{pretrained.run_id}/artifacts/report.md")]
    assert report == b"whole"
    assert Path(client.download_artifacts(context.parent, "config.yaml")).read_text() == RECIPE.to_yaml()


def test_stopped_and_started_in_the_middle_it_loses_no_point(
    cluster_mlflow: ClusterMlflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {12: cluster_mlflow.stop, 26: cluster_mlflow.start}
    result = complete(find(tmp_path), RECIPE, TrackingContext(cluster_mlflow.uri, ""), training(at))
    check_whole(cluster_mlflow, result)
    assert "and has everything" in capsys.readouterr().err


def test_no_secret_in_rows_artifacts_results_and_logs(
    cluster_mlflow: ClusterMlflow, postgres: PostgresServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    context = start_pipeline_run(cluster_mlflow.uri, "a run", RECIPE, {})
    complete(find(tmp_path), RECIPE, context, training({10: cluster_mlflow.stop, 20: cluster_mlflow.start}))
    end_pipeline_run(context, succeeded=True)
    rows, stored = postgres.rows(), artifacts(cluster_mlflow)
    # What is searched holds what was written.
    assert any(context.parent in row for row in rows)
    assert any(context.parent in key for key in stored)
    places = {
        "rows": "\n".join(rows),
        "artifacts": "\n".join(f"{key} {data.decode(errors='replace')}" for key, data in stored.items()),
        "results": "\n".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file()),
        "screen": "".join(capfd.readouterr()),
        "server": cluster_mlflow.log,
        "context": json.dumps(context.to_json()),
    }
    secrets = [*SECRETS.values(), postgres.password, cluster_mlflow.secrets["AWS_SECRET_ACCESS_KEY"]]
    leaks = [(name, secret) for name, text in places.items() for secret in secrets if secret in text]
    assert leaks == []

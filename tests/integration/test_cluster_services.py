"""The main job as on a cluster, on this machine: recipe, data and results on S3, runs in a real `mlflow server`.

Behind that are PostgreSQL and the same S3 store; each is started by the tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from soco_core.artifacts.metrics import read_metrics
from soco_core.demo_data.stage import demo_data
from soco_core.recipes import load_recipe
from soco_core.storage import download, list_objects, read_text, s3_client, split_s3, upload, write_text
from tests.integration.test_pipeline import COMMAND, STAGES, STEPS, TINY
from tests.services import ClusterMlflow, PostgresServer

pytest.importorskip("kfp")

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "of-the-stages-2b6e",
    "AWS_SESSION_TOKEN": "session-of-the-stages-70bd",
    "PGPASSWORD": "of-the-stages-database-48fa",
    "MLFLOW_TRACKING_USERNAME": "user-of-mlflow-93ac",
    "MLFLOW_TRACKING_PASSWORD": "password-of-mlflow-08fd",
}


@dataclass(frozen=True)
class Cluster:
    """What a run needs, and what it may write to here."""

    bucket: str
    mlflow: ClusterMlflow
    folder: Path
    """Holds the command's working directory."""
    temporary: Path
    """TMPDIR, whose name must be short."""

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the main job."""
        places = {
            "--recipe": f"{self.bucket}/data/demo.yaml",
            "--images": f"{self.bucket}/data/unlabelled",
            "--coco": f"{self.bucket}/data/coco",
            "--output": f"{self.bucket}/results",
            "--tracking-uri": self.mlflow.uri,
        }
        options = [part for pair in places.items() for part in pair]
        given = [part for item in TINY for part in ("--set", item)]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        return subprocess.run(
            [*COMMAND[: COMMAND.index("--recipe")], *options, *given],
            capture_output=True,
            text=True,
            check=False,
            timeout=800,
            cwd=self.folder / "work",
            env=environment,
        )

    def results(self) -> dict[str, str]:
        """Return key -> ETag of all results."""
        bucket, prefix = split_s3(f"{self.bucket}/results/")
        pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [entry for page in pages for entry in page.get("Contents", [])]
        return {entry["Key"].removeprefix(prefix): f"{entry['ETag']} {entry['LastModified']}" for entry in found}


@pytest.fixture
def cluster(
    s3: str, cluster_mlflow: ClusterMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    s3_client.cache_clear()
    rendered = demo_data(load_recipe("demo", TINY), output=str(tmp_path / "rendered")).path
    for folder, place in (("unlabelled", "unlabelled"), ("images", "coco/images"), ("annotations", "coco/annotations")):
        for path in (rendered / folder).iterdir():
            upload(path, f"{s3}/data/{place}/{path.name}")
    write_text(f"{s3}/data/demo.yaml", load_recipe("demo").to_yaml())
    (tmp_path / "work").mkdir()
    with tempfile.TemporaryDirectory(prefix="soco-") as temporary:
        yield Cluster(s3, cluster_mlflow, tmp_path, Path(temporary))


@pytest.mark.timeout(1800)
def test_a_whole_run_on_s3_and_mlflow(cluster: Cluster, postgres: PostgresServer) -> None:
    first = cluster.run()
    assert first.returncode == 0, first.stderr
    assert "warning" not in first.stderr
    results = cluster.results()
    done = [key.partition("/")[0] for key in results if key.endswith("/done.json")]
    assert {stage: done.count(stage) for stage in STAGES} == {**STAGES, "demo_data": 0}
    report = re.search(r"report: (s3://\S+/report\.html)", first.stdout)
    assert report is not None
    assert "<table" in read_text(report[1])
    assert [line for line in first.stdout.splitlines() if line.startswith("|") and "SoCo" in line]
    check_runs(cluster, results)
    check_nothing_left(cluster)

    again = cluster.run()
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert cluster.results() == results
    assert again.stderr.count("already done") >= len(done) - 1, again.stderr
    check_nothing_left(cluster)
    check_no_secret(cluster, postgres, first.stderr + again.stderr)


def check_runs(cluster: Cluster, results: dict[str, str]) -> None:
    """One parent, a child for each stage that computes, the whole curve of the loss, the report as an artifact."""
    from mlflow import MlflowClient

    client = MlflowClient(cluster.mlflow.uri)
    experiment = client.get_experiment_by_name("soco")
    query = f"tags.`soco.images` = '{cluster.bucket}/data/unlabelled'"
    (parent,) = client.search_runs([experiment.experiment_id], query)
    assert parent.info.status == "FINISHED"
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    by_stage = {run.data.tags["soco.stage"]: run for run in children}
    assert sorted(run.data.tags["soco.stage"] for run in children) == [
        *("convert", "finetune", "finetune", "pretrain", "proposals", "report"),
    ]
    assert {run.info.status for run in children} == {"FINISHED"}
    (journal,) = [key for key in results if re.fullmatch(r"pretrain/\w+/metrics\.jsonl", key)]
    download(f"{cluster.bucket}/results/{journal}", cluster.folder / "metrics.jsonl")
    expected = {entry["step"]: entry["loss"] for entry in read_metrics(cluster.folder / "metrics.jsonl")}
    assert len(expected) == STEPS
    curve = client.get_metric_history(by_stage["pretrain"].info.run_id, "loss")
    assert len(curve) >= 2
    assert all(point.value == pytest.approx(expected[point.step]) for point in curve)
    reported = by_stage["report"].info
    assert "report.html" in {item.path for item in client.list_artifacts(reported.run_id)}
    artifacts = [name for name, _ in list_objects(cluster.mlflow.artifacts)]
    assert any(name.endswith(f"{reported.run_id}/artifacts/report.html") for name in artifacts)


def check_nothing_left(cluster: Cluster) -> None:
    """No temporary file here, no lock and no part of an upload in the store."""
    assert list(cluster.temporary.iterdir()) == []
    scratch = Path(os.environ["SOCO_SCRATCH"])
    assert [path for path in scratch.rglob("*.tmp*") if path.is_file()] == []
    assert [key for key in cluster.results() if any(part.startswith(".") for part in key.split("/"))] == []
    assert "Uploads" not in s3_client().list_multipart_uploads(Bucket=split_s3(cluster.bucket)[0])
    # Only the log of the command lies where it ran.
    assert {path.suffix for path in (cluster.folder / "work").rglob("*") if path.is_file()} == {".log"}


def check_no_secret(cluster: Cluster, postgres: PostgresServer, screen: str) -> None:
    """Neither in a row or artifact of MLflow, nor in a result, a log or on the screen."""
    server = cluster.mlflow
    texts = {"rows": "\n".join(postgres.rows()), "screen": screen, "server": server.log}
    for place in (f"{cluster.bucket}/results", server.artifacts):
        bucket, prefix = split_s3(place)
        for name, _ in list_objects(place):
            data = s3_client().get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
            texts[f"{place}/{name}"] = data.decode(errors="replace")
    for path in (cluster.folder / "work").rglob("*.log"):
        texts[path.name] = path.read_text()
    secrets = [*SECRETS.values(), postgres.password, server.secrets["AWS_SECRET_ACCESS_KEY"]]
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []

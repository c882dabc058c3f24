"""What goes away while `soco pretrain` runs: the room on its disk, its S3 store, its MLflow server.

Nothing computed is lost: the metrics are those of an undisturbed run, whatever was away and until when.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from soco_core import storage
from soco_core.artifacts.metrics import read_metrics
from tests.conftest import MlflowServer
from tests.scenes import write_scenes

pytestmark = pytest.mark.slow

SOCO = Path(sys.executable).parent / "soco"
SETTINGS = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.batch_size=8",
    "pretrain.epochs=6",
    "pretrain.warmup_epochs=0.0",
    "pretrain.base_learning_rate=0.05",
    "runtime.workers=0",
    "runtime.log_steps=1",
    "runtime.checkpoint_steps=4",
    "runtime.checkpoints_kept=2",
]
IMAGES = 32
STEPS = 24


def arguments(proposals: str, output: str | Path) -> list[str]:
    overrides = [part for item in SETTINGS for part in ("--set", item)]
    return ["pretrain", "--recipe", "demo", *overrides, "--proposals", proposals, "--output", str(output)]


@dataclass
class Ended:
    """What a command left."""

    status: int
    output: str
    said: list[str]

    def warnings(self, text: str) -> list[str]:
        return [line for line in self.said if line.startswith("warning: ") and text in line]


class Training:
    """`soco pretrain` under way; `folder` is where its result directory comes to lie on this machine."""

    def __init__(self, proposals: str, output: str | Path, folder: Path, logs: Path, *more: str) -> None:
        self.folder = folder
        self.logs = logs / uuid4().hex
        self.logs.mkdir()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.logs / "out").open("wb") as out, (self.logs / "err").open("wb") as err:
            command = [str(SOCO), *arguments(proposals, output), *more]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    @property
    def said(self) -> str:
        return (self.logs / "err").read_text()

    def wait_for(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 180
        while not happened():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        """Wait until so many steps are done."""
        self.wait_for(lambda: sum(len(read_metrics(path)) for path in self.metrics()) >= step)

    def metrics(self) -> list[Path]:
        return list(self.folder.glob("pretrain/*/metrics.jsonl"))

    def pause(self) -> None:
        """Stop computing, so that the rest of the training lies behind what the test does now."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> Ended:
        status = self.process.wait(timeout=240)
        return Ended(status, (self.logs / "out").read_text().strip(), self.said.splitlines())


def again(proposals: str, output: str | Path, logs: Path, *more: str) -> Ended:
    return Training(proposals, output, logs, logs, *more).end()


def curves(result: str | Path) -> list[dict[str, Any]]:
    return read_metrics(Path(result) / "metrics.jsonl")


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("outages")
    write_scenes(folder / "images", IMAGES)
    command = [SOCO, "propose", "--recipe", "demo", "--images", folder / "images", "--output", folder / "runs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def undisturbed(proposals: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The curves of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = again(proposals, folder / "runs", folder)
    assert ended.status == 0, ended.said
    found = curves(ended.output)
    assert [entry["step"] for entry in found] == list(range(STEPS))
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is small enough to fill; SOCO_REQUIRE_TMPFS makes its absence a failure."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"a tmpfs cannot be mounted here: {done.stderr.strip()}"
        if os.environ.get("SOCO_REQUIRE_TMPFS"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass
    assert shutil.disk_usage(disk).free < 4096
    return filler


def test_a_disk_that_was_full_for_a_while(
    proposals: str, undisturbed: list[dict[str, Any]], small_disk: Path, tmp_path: Path
) -> None:
    training = Training(proposals, small_disk, small_disk, tmp_path)
    training.wait_for_step(5)
    training.pause()
    filler = fill(small_disk)
    training.go_on()
    training.wait_for(lambda: "warning: " in training.said)
    training.pause()
    filler.unlink()
    training.go_on()
    ended = training.end()
    assert ended.status == 0, ended.said
    assert len(ended.warnings("cannot be written")) == 1, ended.said
    assert curves(ended.output) == undisturbed


def test_a_disk_that_is_still_full_at_the_end(
    proposals: str, undisturbed: list[dict[str, Any]], small_disk: Path, tmp_path: Path
) -> None:
    training = Training(proposals, small_disk, small_disk, tmp_path)
    training.wait_for_step(5)
    training.pause()
    filler = fill(small_disk)
    training.go_on()
    ended = training.end()
    assert (ended.status, ended.output) == (2, ""), ended.said
    assert len(ended.warnings("cannot be written")) == 1, ended.said
    assert [line for line in ended.said if line.startswith("error: ")] == ended.said[-1:]
    assert "run the same command again" in ended.said[-1]
    filler.unlink()
    ended = again(proposals, small_disk, tmp_path)
    assert ended.status == 0, ended.said
    assert any("going on from step" in line for line in ended.said)
    assert curves(ended.output) == undisturbed


@dataclass
class Store:
    """An S3 store that can be stopped; what it holds outlives that."""

    uri: str
    port: int
    server: Any = None
    deaf: socket.socket | None = None

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None
        if self.deaf is not None:
            self.deaf.close()
            self.deaf = None

    def hang(self) -> None:
        """Take every request, and answer none."""
        self.stop()
        self.deaf = socket.create_server(("127.0.0.1", self.port), backlog=100)


@pytest.fixture
def store(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The bucket of `s3` behind a server of its own."""
    found = Store(s3, 0)
    found.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{found.port}")
    storage.s3_client.cache_clear()
    yield found
    found.stop()


def local_copy(store: Store) -> Path:
    return storage.scratch_path(f"{store.uri}/runs")


def published(result: str) -> list[dict[str, Any]]:
    """The curves as the store has them."""
    import json

    return [json.loads(line) for line in storage.read_text(f"{result}/metrics.jsonl").splitlines()]


def test_a_store_that_was_away_for_a_while(
    proposals: str, undisturbed: list[dict[str, Any]], store: Store, tmp_path: Path
) -> None:
    training = Training(proposals, f"{store.uri}/runs", local_copy(store), tmp_path)
    training.wait_for_step(5)
    training.pause()
    store.stop()
    training.go_on()
    training.wait_for_step(12)
    training.pause()
    store.start()
    training.go_on()
    ended = training.end()
    assert ended.status == 0, ended.said
    assert len(ended.warnings("")) <= 1, ended.said
    assert published(ended.output) == undisturbed
    assert storage.exists(f"{ended.output}/done.json")


def test_a_store_that_is_still_away_at_the_end(
    proposals: str, undisturbed: list[dict[str, Any]], store: Store, tmp_path: Path
) -> None:
    training = Training(proposals, f"{store.uri}/runs", local_copy(store), tmp_path)
    training.wait_for_step(5)
    training.pause()
    store.stop()
    training.go_on()
    ended = training.end()
    assert (ended.status, ended.output) == (2, ""), ended.said
    assert len(ended.warnings("")) == 1, ended.said
    assert [line for line in ended.said if line.startswith("error: ")] == ended.said[-1:]
    assert len(read_metrics(training.metrics()[0])) == STEPS  # all is computed, and kept here
    store.start()
    ended = again(proposals, f"{store.uri}/runs", tmp_path)
    assert ended.status == 0, ended.said
    assert any(f"going on from step {STEPS} of {STEPS}" in line for line in ended.said), ended.said
    assert published(ended.output) == undisturbed


def test_a_store_that_hangs_through_a_stop(
    proposals: str, undisturbed: list[dict[str, Any]], store: Store, tmp_path: Path
) -> None:
    training = Training(proposals, f"{store.uri}/runs", local_copy(store), tmp_path)
    training.wait_for_step(5)
    training.pause()
    store.hang()
    training.go_on()
    training.wait_for_step(12)
    began = time.monotonic()
    training.process.send_signal(signal.SIGTERM)
    ended = training.end()
    assert ended.status == 130, ended.said
    assert time.monotonic() - began < 25
    assert "not yet in the store" in ended.said[-1]
    done = len(read_metrics(training.metrics()[0]))
    assert list(training.folder.glob(f"pretrain/*/checkpoints/step-{done:08d}.pt"))
    store.stop()
    store.start()
    ended = again(proposals, f"{store.uri}/runs", tmp_path)
    assert ended.status == 0, ended.said
    assert any(f"going on from step {done} of {STEPS}" in line for line in ended.said), ended.said
    assert published(ended.output) == undisturbed


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_do_not_come_any_more_hold_up_no_stop(
    proposals: str, undisturbed: list[dict[str, Any]], store: Store, tmp_path: Path, workers: int
) -> None:
    """Their store hangs: the state is saved, and the run goes on once it answers."""
    for path in sorted((Path(proposals).parents[2] / "images").iterdir()):
        storage.upload(path, f"{store.uri}/images/{path.name}")
    more = ["--images", f"{store.uri}/images", "--set", f"runtime.workers={workers}"]
    training = Training(proposals, tmp_path, tmp_path, tmp_path, *more)
    training.wait_for_step(5)
    training.pause()
    store.hang()
    training.go_on()
    while (done := len(read_metrics(training.metrics()[0]))) < STEPS:
        time.sleep(2)
        if len(read_metrics(training.metrics()[0])) == done:
            break
    assert done < STEPS
    began = time.monotonic()
    training.process.send_signal(signal.SIGTERM)
    ended = training.end()
    assert ended.status == 130, ended.said
    assert time.monotonic() - began < 25
    assert f"the state after step {done} of {STEPS} is saved" in ended.said[-1]
    store.stop()
    store.start()
    ended = again(proposals, tmp_path, tmp_path, *more)
    assert ended.status == 0, ended.said
    assert curves(ended.output) == undisturbed


@pytest.fixture
def tracked(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    return mlflow_server


def check_tracked(server: MlflowServer, result: str, undisturbed: list[dict[str, Any]]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("soco")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`soco.result` = '{result}'")
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(entry["step"], entry["loss"]) for entry in undisturbed]
    assert "images" in run.data.metrics
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "done.json", "metrics.jsonl", "figures"} <= files
    assert curves(result) == undisturbed
    assert not list(Path(result).glob(".mlflow-*"))


def test_a_tracking_server_that_was_away_for_a_while(
    proposals: str, undisturbed: list[dict[str, Any]], tracked: MlflowServer, tmp_path: Path
) -> None:
    training = Training(proposals, tmp_path, tmp_path, tmp_path)
    training.wait_for_step(5)
    tracked.stop()
    training.wait_for_step(12)
    training.pause()
    tracked.start()
    training.go_on()
    ended = training.end()
    assert ended.status == 0, ended.said
    check_tracked(tracked, ended.output, undisturbed)


def test_a_tracking_server_that_is_still_away_at_the_end(
    proposals: str, undisturbed: list[dict[str, Any]], tracked: MlflowServer, tmp_path: Path
) -> None:
    training = Training(proposals, tmp_path, tmp_path, tmp_path)
    training.wait_for_step(5)
    tracked.stop()
    ended = training.end()
    assert ended.status == 0, ended.said
    assert len(ended.warnings("MLflow at")) == 1, ended.said
    assert len(ended.warnings("the same command delivers it")) == 1, ended.said
    tracked.start()
    ended = again(proposals, tmp_path, tmp_path)
    assert ended.status == 0, ended.said
    assert "pretrain: already done, nothing to compute" in ended.said
    check_tracked(tracked, ended.output, undisturbed)


def test_a_tracking_server_that_never_answers(
    proposals: str, undisturbed: list[dict[str, Any]], tracked: MlflowServer, tmp_path: Path
) -> None:
    """The training goes on; a signal ends it in time; and the run is whole once the server answers."""
    training = Training(proposals, tmp_path, tmp_path, tmp_path)
    training.wait_for_step(5)
    tracked.hang()
    training.wait_for_step(12)
    began = time.monotonic()
    training.process.send_signal(signal.SIGTERM)
    ended = training.end()
    assert ended.status == 130, ended.said
    assert time.monotonic() - began < 25
    tracked.go_on()
    ended = again(proposals, tmp_path, tmp_path)
    assert ended.status == 0, ended.said
    check_tracked(tracked, ended.output, undisturbed)

"""What the job runs: its command is one that torchrun and soco know, and it goes on after a lost pod."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from k8s.check import launched_job
from soco_core.artifacts.metrics import read_metrics
from soco_core.recipes import load_recipe
from tests.integration.test_training_killed import IMAGES, SMALL
from tests.integration.trainings import BIN, STEPS, command
from tests.scenes import write_scenes
from tests.services import free_port

Document = dict[str, Any]
POD_LOST_AT = 5
"""Lines of the curves that are written by then; there is a checkpoint after 4 steps."""


def container(job: Document, role: str = "Master") -> Document:
    (found,) = job["spec"]["pytorchReplicaSpecs"][role]["template"]["spec"]["containers"]
    return dict(found)


def words(job: Document) -> list[str]:
    """The command as Kubernetes runs it."""
    pod = container(job)
    values = {each["name"]: each["value"] for each in pod["env"]}
    return [
        re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], word) for word in [*pod["command"], *pod.get("args", [])]
    ]


def operators_environment(job: Document, rank: int, port: int) -> dict[str, str]:
    """What the training operator sets in a pod of a job with a Master, here for one process a pod."""
    nodes = sum(replica["replicas"] for replica in job["spec"]["pytorchReplicaSpecs"].values())
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(nodes), "RANK": str(rank)}
    elastic = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port), "PET_NODE_RANK": str(rank)}
    return {**here, **elastic, "PET_NNODES": str(nodes), "PET_NPROC_PER_NODE": "1"}


@pytest.mark.parametrize("made_by", ["the file", "the launcher"])
def test_torchrun_and_soco_know_the_command(made_by: str, job: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.run import config_from_args, get_args_parser

    from soco_core.cli import app

    document = job if made_by == "the file" else launched_job()
    torchrun, *given = words(document)
    assert torchrun == "torchrun"
    for name, value in operators_environment(document, 1, 29500).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PET_NPROC_PER_NODE", document["spec"]["nprocPerNode"])
    launcher = get_args_parser().parse_args(given)
    config, _, _ = config_from_args(launcher)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    # With more, a node that begins again meets the other one no more.
    assert (config.max_restarts, config.rdzv_backend, config.rdzv_configs["rank"]) == (0, "static", 1)
    assert (launcher.module, launcher.training_script) == (True, "soco_core.cli")

    stage, *options = launcher.training_script_args
    context = typer.main.get_command(app).commands[stage].make_context(stage, options)
    load_recipe(context.params["recipe"], context.params.get("overrides") or [])
    mounts = {each["mountPath"] for each in container(document)["volumeMounts"]}
    places = [context.params[name] for name in ("proposals", "output", "images") if context.params.get(name)]
    assert all(
        any(place.startswith(f"{mount}/") or place == mount for mount in mounts) for place in places if place != "runs"
    )


class Pod:
    """A pod whose container is started again when it fails, as restartPolicy OnFailure does."""

    def __init__(self, program: list[str], environment: dict[str, str], log: Path) -> None:
        self.program, self.environment, self.log = program, environment, log
        self.restarts = -1
        self.start()

    def start(self) -> None:
        self.restarts += 1
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.program, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def lose(self) -> None:
        """End it as when its node goes down."""
        launcher = psutil.Process(self.process.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def look(self) -> bool:
        """Start it again if it failed; tell whether it has ended well."""
        if self.process.poll() not in {None, 0}:
            self.start()
        return self.process.poll() == 0


@pytest.fixture
def run_pods(job: Document, tmp_path: Path) -> Iterator[Callable[[], list[Pod]]]:
    """Starts the pods of the job with its own command, small enough for a CPU."""
    write_scenes(tmp_path / "images", IMAGES)
    proposed = subprocess.run(
        command("propose", ["proposals.engine=random"], images=tmp_path / "images", output=tmp_path / "checkpoints"),
        capture_output=True,
        text=True,
        check=True,
    )
    here = {
        "soco-fpn-100ep": "demo",
        "/data/imagenet/train": str(tmp_path / "images"),
        "/checkpoints": str(tmp_path / "checkpoints"),
        next(each["value"] for each in container(job)["env"] if each["name"] == "PROPOSALS"): proposed.stdout.strip(),
    }
    given = words(job)
    assert here.keys() <= set(given)
    program = [here.get(word, word) for word in given] + [part for item in SMALL for part in ("--set", item)]
    pods: list[Pod] = []

    def start() -> list[Pod]:
        port = free_port()
        for rank in range(2):
            environment = {
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "OMP_NUM_THREADS": "1",
                **operators_environment(job, rank, port),
            }
            pods.append(Pod(program, environment, tmp_path / f"pod-{rank}.log"))
        return pods

    yield start
    for pod in pods:
        if pod.process.poll() is None:
            pod.lose()


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_lost_pod_and_both_go_on_from_the_last_checkpoint(
    lost: int, run_pods: Callable[[], list[Pod]], tmp_path: Path
) -> None:
    pods = run_pods()
    said = lambda: "\n".join(pod.log.read_text() for pod in pods)  # noqa: E731
    deadline = time.monotonic() + 600

    def lines() -> int:
        files = list(tmp_path.glob("checkpoints/pretrain/*/metrics.jsonl"))
        return len(files[0].read_text().splitlines()) if files else 0

    while lines() < POD_LOST_AT or not list(tmp_path.glob("checkpoints/pretrain/*/checkpoints/step-*.pt")):
        assert time.monotonic() < deadline, said()
        assert all(pod.process.poll() is None for pod in pods), said()
        time.sleep(0.05)
    pods[lost].lose()
    # A new pod takes longer to come than the other one to notice.
    while pods[1 - lost].process.poll() is None:
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)
    while not all([pod.look() for pod in pods]):  # noqa: C419 (all of them are looked at)
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)
    assert re.search(r"pretrain: going on from step \d+ of 12", pods[0].log.read_text()), said()
    assert [pod.restarts for pod in pods] == [1, 1], said()
    (result,) = tmp_path.glob("checkpoints/pretrain/*/done.json")
    assert [line["step"] for line in read_metrics(result.parent / "metrics.jsonl")] == list(range(STEPS))

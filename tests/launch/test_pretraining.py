"""The pretraining by a PyTorchJob: the real component in a process of its own, and the real command in the pod."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from soco_core.artifacts.result import ResultDirectory, locate, writing
from soco_core.cli import app
from soco_core.config import Recipe
from soco_core.errors import InputError, SocoError
from soco_core.launch import JobSettings
from soco_core.pretrain.launched import pretrain
from soco_core.pretrain.stage import locate_pretraining
from soco_core.recipes import load_recipe
from soco_core.tracking import TrackingContext
from tests.launch.conftest import WAITS
from tests.launch.fake_api import JOBS
from tests.launch.fake_kubernetes import FakeKubernetes
from tests.scenes import write_scenes
from tests.services import free_port

pytestmark = pytest.mark.timeout(120)

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STEP = """
import json, sys
from components.pretrain.component import pretrain
print(pretrain.python_func(**json.loads(sys.argv[1])))
"""
TINY = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.batch_size=4",
    "pretrain.epochs=1",
    "pretrain.warmup_epochs=0.0",
    "runtime.workers=0",
    "runtime.device=cpu",
]
RECIPE = load_recipe("demo", TINY)
Said = Callable[[], list[str]]


def proposals_in(root: Path) -> str:
    """A finished result of proposals, without any: enough for who only launches."""
    result = locate(str(root), "proposals", 1, RECIPE, ("seed",), {})
    with writing(result, RECIPE):
        result.finish({})
    return result.uri


def finish(result: ResultDirectory, recipe: Recipe = RECIPE) -> None:
    """Make a result whole, as the pods do."""
    with writing(result, recipe):
        result.finish({"epochs": 1})


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "images").mkdir()
    settings = {"nodes": 2, "image": "soco:cuda", "claims": {"all": str(tmp_path)}}
    return {
        "recipe": RECIPE.to_yaml(),
        "proposals": proposals_in(tmp_path),
        "images": str(tmp_path / "images"),
        "output": str(tmp_path),
        "job": json.dumps(settings),
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], subprocess.Popen[str]]]:
    """Start the component as a process; what it says goes to a file."""
    steps = []

    def begin(given: dict[str, Any]) -> subprocess.Popen[str]:
        with (tmp_path / f"step-{len(steps)}.log").open("w") as log:
            command = [sys.executable, "-c", STEP, json.dumps(given)]
            steps.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY))
        return steps[-1]

    yield begin
    for step in steps:
        step.kill()
        step.wait()
        assert step.stdout is not None
        step.stdout.close()


def said_by(folder: Path, number: int = 0) -> list[str]:
    return (folder / f"step-{number}.log").read_text().splitlines()


def train(given: dict[str, Any], **changes: Any) -> ResultDirectory:
    """What the component calls, in this process and with short waits."""
    given = {**given, **changes}
    tracking, job = given.pop("tracking", None), JobSettings.from_json(given.pop("job"))
    return pretrain(
        RECIPE, tracking=tracking, job=job, waits=WAITS, **{k: v for k, v in given.items() if k != "recipe"}
    )


@pytest.mark.slow  # it imports torch and trains, in a pod's place
@pytest.mark.timeout(600)
def test_the_pods_run_the_real_command(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "images", 4)
    (tmp_path / "recipe.yaml").write_text(arguments["recipe"])
    command = [str(BIN / "soco"), "propose", "--recipe", str(tmp_path / "recipe.yaml")]
    command += ["--images", arguments["images"], "--output", arguments["output"]]
    arguments["proposals"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    arguments["job"] = json.dumps(
        {"nodes": 1, "gpus_per_node": 0, "image": "soco:cpu", "claims": {"all": str(tmp_path)}}
    )

    def operate(name: str) -> None:
        """Run the container's command, with what the operator adds to its environment."""
        kubernetes.condition(name, "Created")
        pod = kubernetes.running(name)
        kubernetes.condition(name, "Running")
        spec = kubernetes.jobs[name]["spec"]
        (container,) = spec["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
        operator = {
            "PET_NNODES": "1",
            "PET_NODE_RANK": "0",
            "PET_NPROC_PER_NODE": spec["nprocPerNode"],
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(free_port()),
        }
        program, *rest = container["command"] + container["args"]
        done = subprocess.run(
            [str(BIN / program), *rest],
            env={**os.environ, **operator, **{each["name"]: each["value"] for each in container["env"]}},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        kubernetes.log(pod, *done.stderr.splitlines(), *done.stdout.splitlines())
        kubernetes.ended(pod, done.returncode)
        kubernetes.condition(name, "Failed" if done.returncode else "Succeeded")

    kubernetes.operate = operate
    step = start(arguments)
    output, _ = step.communicate()
    lines = said_by(tmp_path)
    assert step.returncode == 0, lines
    result = locate_pretraining(RECIPE, arguments["proposals"], arguments["output"])
    assert output == f"{result.uri}\n"
    assert result.done is not None
    assert (Path(result.uri) / "pretrained.safetensors").is_file()
    assert f"[pretrain] master: {result.uri}" in lines
    assert lines[-1].startswith("[pretrain] done in ")

    again = start(arguments)
    output, _ = again.communicate()
    assert (again.returncode, output) == (0, f"{result.uri}\n")
    assert len(kubernetes.asked("POST", JOBS)) == 1


def test_sigterm_deletes_the_job(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    def operate(job: str) -> None:
        kubernetes.condition(job, "Running")
        kubernetes.log(kubernetes.running(job), "step 1")

    kubernetes.operate = operate
    step = start(arguments)
    kubernetes.wait_until(lambda: "[pretrain] master: step 1" in said_by(tmp_path), 60)
    (name,) = kubernetes.jobs
    step.send_signal(signal.SIGTERM)
    assert step.wait(30) == 130
    assert not kubernetes.jobs
    assert said_by(tmp_path)[-1] == (
        f"[pretrain] stopped: the PyTorchJob {name} is deleted, its last checkpoint kept. Run the same again to go on"
    )


def test_a_step_that_was_killed_finds_its_job_again(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    def operate(job: str) -> None:
        kubernetes.condition(job, "Running")
        kubernetes.log(kubernetes.running(job), "step 1")

    kubernetes.operate = operate
    first = start(arguments)
    kubernetes.wait_until(lambda: "[pretrain] master: step 1" in said_by(tmp_path), 60)
    first.kill()
    first.wait()
    (name,) = kubernetes.jobs

    second = start(arguments)
    kubernetes.wait_until(lambda: "[pretrain] master: step 1" in said_by(tmp_path, 1), 60)
    result = locate_pretraining(RECIPE, arguments["proposals"], arguments["output"])
    finish(result)
    kubernetes.log(f"{name}-master-0", "step 2")
    kubernetes.ended(f"{name}-master-0", 0)
    kubernetes.condition(name, "Succeeded")
    output, _ = second.communicate()
    assert (second.returncode, output) == (0, f"{result.uri}\n")
    assert list(kubernetes.jobs) == [name]
    lines = [line.removeprefix("[pretrain] ") for line in said_by(tmp_path, 1)]
    assert f"PyTorchJob {name} runs already in team; watching it" in lines
    assert [line for line in lines if line.startswith("master: ")] == ["master: step 1", "master: step 2"]


def test_a_job_that_another_step_took_over_is_left(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    kubernetes.operate = lambda job: kubernetes.condition(job, "Running")
    step = start(arguments)
    kubernetes.wait_until(lambda: any("Running" in line for line in said_by(tmp_path)), 60)
    (job,) = kubernetes.jobs.values()
    job["metadata"]["annotations"]["soco/launcher"] = "another"
    step.send_signal(signal.SIGTERM)
    assert step.wait(30) == 130
    assert kubernetes.jobs
    assert said_by(tmp_path)[-1].endswith("goes on, another run watches it")


def test_what_the_pods_are_told(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.team:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("SOCO_DATA", "https://me:hunter2@example")
    result = locate_pretraining(RECIPE, arguments["proposals"], arguments["output"])

    def operate(job: str) -> None:
        finish(result)
        kubernetes.condition(job, "Succeeded")

    kubernetes.operate = operate
    context = TrackingContext("http://mlflow:5000", "parent-1")
    assert train(arguments, tracking=context).uri == result.uri
    (job,) = kubernetes.jobs.values()
    assert "hunter2" not in json.dumps(job)
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["AWS_ENDPOINT_URL_S3"] == "http://s3.team:9000"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert TrackingContext.from_environment() == context

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    taken = commands[container["command"][-1]].make_context("pretrain", list(container["args"])).params
    assert taken["proposals"] == arguments["proposals"]
    assert taken["images"] == arguments["images"]
    assert taken["output"] == arguments["output"]
    assert load_recipe(taken["recipe"]) == RECIPE


def test_a_result_that_is_whole_launches_nothing(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], said: Said
) -> None:
    result = locate_pretraining(RECIPE, arguments["proposals"], arguments["output"])
    finish(result)
    assert train(arguments).uri == result.uri
    assert not kubernetes.requests
    assert "pretrain: already done, nothing to compute" in said()


def test_a_job_that_leaves_no_result_is_an_error(kubernetes: FakeKubernetes, arguments: dict[str, Any]) -> None:
    kubernetes.operate = lambda job: kubernetes.condition(job, "Succeeded")
    with pytest.raises(SocoError, match=r"has succeeded, but .* is not a finished result here"):
        train(arguments)


@pytest.mark.parametrize("name", ["output", "images"])
@pytest.mark.parametrize("place", ["/elsewhere/x", "relative", "{tmp}/../x", "{tmp}-beside"])
def test_a_path_that_the_pods_do_not_see_is_refused(
    kubernetes: FakeKubernetes, arguments: dict[str, Any], tmp_path: Path, name: str, place: str
) -> None:
    place = place.format(tmp=tmp_path)
    with pytest.raises(InputError, match=f"{name} {place}: on none of the claims .*{tmp_path}.*`claims`"):
        train(arguments, **{name: place})
    assert not kubernetes.requests


def test_everything_on_s3_needs_no_claim(kubernetes: FakeKubernetes, arguments: dict[str, Any], s3: str) -> None:
    arguments |= {"output": s3, "images": f"{s3}/images", "job": '{"nodes": 2, "image": "soco"}'}
    result = locate(s3, "proposals", 1, RECIPE, ("seed",), {})
    with writing(result, RECIPE):
        result.finish({})
    arguments["proposals"] = result.uri
    pretrained = locate_pretraining(RECIPE, result.uri, s3)

    def operate(job: str) -> None:
        finish(pretrained)
        kubernetes.condition(job, "Succeeded")

    kubernetes.operate = operate
    assert train(arguments).uri == pretrained.uri
    (job,) = kubernetes.jobs.values()
    args = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["args"]
    assert load_recipe(args[1]) == RECIPE


def test_no_cluster_is_one_line(arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match=r"no access to a Kubernetes cluster .*KUBECONFIG"):
        train(arguments)


def test_no_package_is_one_line(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(InputError, match=r"soco\[cluster\]"):
        train(arguments)

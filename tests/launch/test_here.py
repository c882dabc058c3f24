"""A component that trains in several processes: the real component, the real `torchrun`, on CPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soco_core.artifacts.result import ResultDirectory, find_result, locate, writing
from soco_core.config import Recipe
from soco_core.demo_data.stage import demo_data
from soco_core.detection.stage import locate_finetuning
from soco_core.engine.processes import LAUNCHING_STEP
from soco_core.errors import SocoError
from soco_core.launch import Training, here, train_here
from soco_core.recipes import load_recipe, parse_recipe
from soco_core.tracking import TrackingContext
from tests.detection.test_stage import TINY
from tests.launch.test_pretraining import TINY as TINY_PRETRAINING
from tests.scenes import write_scenes

pytestmark = pytest.mark.timeout(300)

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = """
import importlib, json, sys
from types import SimpleNamespace
name, given = sys.argv[1], json.loads(sys.argv[2])
if name != "pretrain":
    given["metrics"] = SimpleNamespace(log_metric=lambda name, value: print(f"{name} {value}", file=sys.stderr))
print(getattr(importlib.import_module(f"components.{name}.component"), name).python_func(**given))
"""
ENDLESS = ("finetune.iterations=100000", "runtime.checkpoint_steps=100000", "finetune.evaluate_steps=0")
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(demo_data(parse_recipe(TINY), output=str(tmp_path_factory.mktemp("data"))).path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a component as a process; what it says goes to a file."""
    steps = []

    def begin(name: str, **given: Any) -> subprocess.Popen[str]:
        with (tmp_path / f"step-{len(steps)}.log").open("w") as log:
            command = [sys.executable, "-c", STEP, name, json.dumps(given)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            steps.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY, env=environment
                )
            )
        return steps[-1]

    yield begin
    for step in steps:
        step.kill()
        step.wait()
        assert step.stdout is not None
        step.stdout.close()


def said(folder: Path, number: int = 0) -> list[str]:
    return (folder / f"step-{number}.log").read_text().splitlines()


def launched_by(step: subprocess.Popen[str]) -> set[int]:
    """The processes that live and work for a step: torchrun's, and those of the training."""
    mark = f"{LAUNCHING_STEP}={step.pid}".encode()
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
            except OSError:  # gone meanwhile, or another user's
                continue
    return found


def wait_until(true: Callable[[], Any], what: str, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def finetuning(data: str, output: Path, *sets: str, **more: str) -> dict[str, Any]:
    recipe = parse_recipe(TINY, ["runtime.processes=2", *sets])
    return {"recipe": recipe.to_yaml(), "coco": data, "method": "Mine", "init": "scratch", "output": str(output)} | more


def located(given: dict[str, Any]) -> ResultDirectory:
    """The result as one process would find it."""
    recipe = parse_recipe(given["recipe"], ["runtime.processes=1"])
    names = ("coco", "method", "init", "output")
    return locate_finetuning(recipe, **{name: given[name] for name in names})


def training_steps(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("metrics.jsonl"))


@pytest.mark.slow  # every process imports torch
def test_two_processes_compute_the_result_that_one_would(data: str, start: Start, tmp_path: Path) -> None:
    # No place is given, so it is the benchmark's data set; its settings are not the paper's.
    given = finetuning("", tmp_path / "runs", f"datasets.coco={data}", "finetune.benchmark=coco-fpn-1x")
    recipe = parse_recipe(given["recipe"])
    step = start("finetune", **given)
    output, _ = step.communicate()
    lines = said(tmp_path)
    assert step.returncode == 0, lines
    result = located(given)
    assert output == f"{result.uri}\n"
    assert result.done is not None
    assert [path.name for path in (tmp_path / "runs" / "finetune").iterdir()] == [result.fingerprint]
    assert parse_recipe((result.path / "config.yaml").read_text()) == recipe
    label = "[finetune Mine] "
    assert f"{label}finetune: 2 processes" in lines
    assert any(line.startswith(f"{label}finetune Mine: APbb ") for line in lines)
    assert lines[-1].startswith(f"{label}done in ")
    assert not launched_by(step)

    again = start("finetune", **given)
    output, _ = again.communicate()
    assert (again.returncode, output) == (0, f"{result.uri}\n")
    assert f"{label}finetune Mine: already done, nothing to compute" in said(tmp_path, 1)
    assert f"{label}finetune: 2 processes" not in said(tmp_path, 1)


@pytest.mark.slow
def test_everything_on_s3(s3: str, start: Start, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    data = demo_data(parse_recipe(TINY), output=s3).uri
    given = {**finetuning(data, tmp_path), "output": f"{s3}/runs"}
    given["tracking"] = TrackingContext(f"sqlite:///{tmp_path}/mlflow.db", "").to_json()
    step = start("finetune", **given)
    output, _ = step.communicate()
    assert step.returncode == 0, said(tmp_path)
    assert output == f"{located(given).uri}\n"
    assert find_result(output.strip(), "finetune").done is not None
    # Once, and by the processes of the training: this one only finds what they computed.
    (run,) = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["0", "1"])
    assert (run.info.status, run.data.tags.get("soco.reused")) == ("FINISHED", None)
    assert run.data.tags["soco.result"] == output.strip()


@pytest.mark.slow
def test_pretraining_in_two_processes(start: Start, tmp_path: Path) -> None:
    from soco_core.pretrain.stage import locate_pretraining
    from soco_core.proposals.stage import propose

    recipe = load_recipe("demo", [*TINY_PRETRAINING, "runtime.processes=2"])
    write_scenes(tmp_path / "images", 4)
    images, output = str(tmp_path / "images"), str(tmp_path / "runs")
    proposals = propose(recipe, images=images, output=output).uri
    step = start("pretrain", recipe=recipe.to_yaml(), proposals=proposals, images=images, output=output)
    printed, _ = step.communicate()
    assert step.returncode == 0, said(tmp_path)
    result = locate_pretraining(recipe, proposals, output)
    assert printed == f"{result.uri}\n"
    assert result.summary["processes"] == 2


@pytest.mark.slow
def test_linear_evaluation_in_two_processes(start: Start, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            write_scenes(tmp_path / "images" / split / name, 2)
    sets = ["linear.batch_size=2", "linear.epochs=1", "linear.image_size=32", "linear.resize=32"]
    sets += ["linear.knn_neighbours=1", "model.backbone=resnet18", "runtime.workers=0", "runtime.device=cpu"]
    recipe = load_recipe("demo", [*sets, "runtime.processes=2"])
    given = {"images": str(tmp_path / "images"), "init": "scratch", "output": str(tmp_path / "runs")}
    step = start("linear", recipe=recipe.to_yaml(), method="Scratch", **given)
    printed, _ = step.communicate()
    assert step.returncode == 0, said(tmp_path)
    assert find_result(printed.strip(), "linear").done is not None
    assert "[linear Scratch] linear: 2 processes" in said(tmp_path)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_no_process(data: str, start: Start, tmp_path: Path) -> None:
    given = finetuning(data, tmp_path / "runs", *ENDLESS[:2])
    step = start("finetune", **given)
    wait_until(lambda: training_steps(tmp_path / "runs") > 2, "no step was done")
    assert len(launched_by(step)) == 3
    step.send_signal(signal.SIGTERM)
    assert step.wait(60) == 130
    lines = said(tmp_path)
    assert lines[-1].startswith("[finetune Mine] stopped: stopped by SIGTERM; "), lines
    assert not any("Traceback" in line for line in lines), lines
    assert list(located(given).path.glob("checkpoints/*"))
    assert not launched_by(step)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["step", "torchrun"])
def test_nothing_outlives_what_was_killed(victim: str, data: str, start: Start, tmp_path: Path) -> None:
    step = start("finetune", **finetuning(data, tmp_path / "runs", *ENDLESS[:2]))
    wait_until(lambda: training_steps(tmp_path / "runs") > 2, "no step was done")
    processes = launched_by(step)
    if victim == "step":
        step.kill()
    else:
        (torchrun,) = (pid for pid in processes if parent_of(pid) == step.pid)
        os.kill(torchrun, signal.SIGKILL)
        assert step.wait(60) == 2
        assert said(tmp_path)[-1].startswith("[finetune Mine] error: torchrun ended by signal 9, and its 2 processes ")
        assert not launched_by(step)
    wait_until(lambda: not launched_by(step), "processes are left", 20)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_an_error_of_the_processes_is_one_line(data: str, start: Start, tmp_path: Path) -> None:
    step = start("finetune", **finetuning(data, tmp_path / "runs", "finetune.batch_size=3"))
    assert step.wait(120) == 2
    lines = said(tmp_path)
    assert lines[-1].startswith(
        "[finetune Mine] error: finetune.batch_size: 3 images cannot be divided evenly among 2 "
    )
    assert sum("cannot be divided" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines), lines


# What follows starts small scripts in torchrun's place: what it and its processes may do at their end.

RECIPE = load_recipe("demo", ["runtime.processes=2"])


@pytest.fixture
def result(tmp_path: Path) -> ResultDirectory:
    return locate(str(tmp_path), "linear", 1, RECIPE, ("seed",), {})


def training(result: ResultDirectory, recipe: Recipe = RECIPE, **more: Any) -> Training:
    def alone() -> ResultDirectory:
        raise AssertionError("trained in this process")

    whole = {"arguments": {"--init": "scratch", "--method": ""}, "here": alone, "locate": lambda: result}
    return Training(**{"stage": "linear", "recipe": recipe, "divides": lambda count: True, **whole, **more})


def play(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(here, "TORCHRUN", ("-c", f"import os, signal, sys, time\nerr = sys.stderr\n{script}"))


def finish(result: ResultDirectory) -> None:
    with writing(result, RECIPE):
        result.finish({})


def test_a_whole_result_starts_nothing(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    play(monkeypatch, f"open({str(tmp_path / 'started')!r}, 'w')")
    finish(result)
    assert train_here(training(result, here=lambda: result)) is result
    assert not (tmp_path / "started").exists()


def test_what_the_processes_are_told(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://not-this-run")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = tmp_path / "seen.json"
    play(monkeypatch, f"import json; json.dump([sys.argv[1:], dict(os.environ)], open({str(seen)!r}, 'w'))")
    with pytest.raises(SocoError, match=r"the 2 processes computed no result, not .*looked for"):
        train_here(training(result))
    arguments, environment = json.loads(seen.read_text())
    recipe_file = f"{result.uri}/.launched.yaml"
    command = ["linear", f"--recipe={recipe_file}", "--init=scratch", "--debug"]
    assert arguments == ["--nproc-per-node", "2", "-m", "soco_core.cli", *command]
    assert load_recipe(recipe_file) == RECIPE
    assert environment["SOCO_STAGE_LABEL"] == "linear"
    assert environment[LAUNCHING_STEP] == str(os.getpid())
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert "MLFLOW_TRACKING_URI" not in environment
    assert capfd.readouterr().err == "linear: 2 processes\n"


def test_a_result_that_is_not_whole_is_refused(result: ResultDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, f"print({result.uri!r})")
    with pytest.raises(SocoError, match="is not a finished result"):
        train_here(training(result))


ACCOUNT = "print('E failed (exitcode: 1)\\nTraceback (most recent call last):\\n  of torchrun', file=err); sys.exit(1)"


def test_the_cause_is_told_once_and_without_a_traceback(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    play(
        monkeypatch,
        "print('[linear] epoch 1\\nTraceback (most recent call last):\\n  in soco\\n[linear] error: a.jpg: bad', "
        f"file=err)\n{ACCOUNT}",
    )
    with pytest.raises(SocoError, match=r"^a\.jpg: bad$"):
        train_here(training(result))
    assert capfd.readouterr().err == "linear: 2 processes\n[linear] epoch 1\n"


def test_a_bug_keeps_its_traceback(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bug = "[linear] error: KeyError: 3 (--debug shows the traceback)"
    play(monkeypatch, f"print('Traceback (most recent call last):\\n  in soco\\n{bug}', file=err)\n{ACCOUNT}")
    with pytest.raises(SocoError, match=r"^KeyError: 3$"):
        train_here(training(result))
    assert capfd.readouterr().err.splitlines()[1:] == ["Traceback (most recent call last):", "  in soco"]


def test_processes_that_end_without_a_word(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, "print('no port', file=err); sys.exit(7)")
    with pytest.raises(SocoError, match=r"torchrun ended with status 7, and its 2 processes gave no cause .* no port$"):
        train_here(training(result))
    assert "no port" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "batch_size", "count"), [(0, 8, 1), (1, 8, 1), (8, 8, 8), (8, 6, 6), (8, 12, 6), (3, 4, 2), (2, 3, 1)]
)
def test_one_process_a_gpu_unless_the_batch_cannot_be_divided(
    gpus: int, batch_size: int, count: int, result: ResultDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    chosen = load_recipe("demo", ["runtime.device=auto"])
    assert here._count(training(result, chosen, divides=lambda number: batch_size % number == 0)) == count
    on_cpu = load_recipe("demo", ["runtime.device=cpu"])
    assert here._count(training(result, on_cpu)) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert here._count(training(result)) == 1

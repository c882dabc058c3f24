"""The main job through its real command, made tiny: whole, repeated, killed and gone on with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from soco_core.artifacts.metrics import read_metrics

pytest.importorskip("kfp")

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(REPOSITORY / "pipelines" / "full_benchmark.py"), "--local", "--recipe", "demo"]
TINY = [
    "demo_data.train_images=8",
    "demo_data.val_images=4",
    "demo_data.unlabelled_images=12",
    "demo_data.image_size=96",
    "views.size=64",
    "views.small_size=32",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.epochs=4",
    "pretrain.batch_size=4",
    "pretrain.warmup_epochs=1.0",
    "finetune.iterations=4",
    "finetune.warmup_iterations=2",
    "finetune.batch_size=2",
    "finetune.train_sizes=[96]",
    "finetune.test_size=96",
    "finetune.precise_bn_images=4",
    "runtime.checkpoint_steps=3",
    "runtime.workers=1",
]
STEPS = 12
STAGES = {
    "demo_data": 1,
    "plan": 1,
    "proposals": 1,
    "pretrain": 1,
    "convert": 1,
    "finetune": 2,
    "report": 1,
}


def command(output: Path, *more: str, script: str = "full_benchmark.py") -> list[str]:
    python, path, *rest = COMMAND
    tiny = (part for item in TINY for part in ("--set", item))
    return [python, str(Path(path).with_name(script)), *rest, "--output", str(output), *tiny, *more]


def run(output: Path, *more: str, script: str = "full_benchmark.py") -> subprocess.CompletedProcess[str]:
    arguments = command(output, *more, script=script)
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=800)


def results(output: Path) -> dict[str, list[Path]]:
    return {stage: sorted(path.parent for path in output.glob(f"{stage}/*/done.json")) for stage in STAGES}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = tmp_path_factory.mktemp("unbroken") / "out"
    done = run(output)
    assert done.returncode == 0, done.stderr
    return output, done


def test_every_stage_leaves_a_whole_result_and_the_report_is_named(
    unbroken: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    output, done = unbroken
    assert {stage: len(paths) for stage, paths in results(output).items()} == STAGES
    report = re.search(r"report: (\S+report\.html)", done.stdout)
    assert report is not None
    assert Path(report[1]).is_file()
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert any("Scratch" in line for line in table)
    assert any("SoCo" in line for line in table)
    assert list(output.glob("logs/*.log"))
    assert "warning" not in done.stderr


def test_mlflow_has_a_parent_with_a_child_for_each_stage(
    unbroken: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{unbroken[0]}/mlflow.db")
    experiment = client.get_experiment_by_name("soco")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parents[0].info.run_id}
    stages = sorted(r.data.tags["soco.stage"] for r in children)
    assert stages == ["convert", "finetune", "finetune", "pretrain", "proposals", "report"]
    pretrain = next(r for r in children if r.data.tags["soco.stage"] == "pretrain")
    curve = client.get_metric_history(pretrain.info.run_id, "loss")
    expected = {e["step"]: e["loss"] for e in read_metrics(results(unbroken[0])["pretrain"][0] / "metrics.jsonl")}
    assert len(curve) >= 2
    assert all(point.value == pytest.approx(expected[point.step]) for point in curve)
    names = {item.path for item in client.list_artifacts(pretrain.info.run_id)}
    assert {"config.yaml", "figures"} <= names
    report = next(r for r in children if r.data.tags["soco.stage"] == "report")
    assert "report.html" in {item.path for item in client.list_artifacts(report.info.run_id)}


def test_the_same_command_again_computes_nothing(
    unbroken: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    output, first = unbroken
    whole = [folder for folders in results(output).values() for folder in folders]
    before = {path: path.stat().st_mtime_ns for folder in whole for path in folder.rglob("*") if path.is_file()}
    again = run(output)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    after = {path: path.stat().st_mtime_ns for folder in whole for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert {stage: len(paths) for stage, paths in results(output).items()} == STAGES


def test_pretraining_alone_takes_what_is_there_and_reports_on_it(
    unbroken: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(unbroken[0], output)
    before = {stage: set(folders) for stage, folders in results(output).items()}
    done = run(output, script="pretrain_only.py")
    assert done.returncode == 0, done.stderr
    new = {stage: set(folders) - before[stage] for stage, folders in results(output).items()}
    assert {stage for stage, folders in new.items() if folders} == {"plan", "report"}
    (report,) = new["report"]
    assert done.stdout.splitlines() == [f"report: {report}/report.html", f"        {report}/report.md"]
    text = (report / "report.md").read_text()
    assert "| torchvision.pth |" in text
    assert "APbb" not in text


def test_a_benchmark_by_its_name_goes_through_the_whole_pipeline(
    unbroken: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for split in ("train", "val"):
        for colour in ("red", "blue"):
            (tmp_path / "labelled" / split / colour).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (64, 64), colour).save(tmp_path / "labelled" / split / colour / f"{number}.png")
    shutil.copytree(unbroken[0], tmp_path / "out")
    scale = ("--scale", "iterations=1/100,batch=1/64,size=1/7", "--set", "linear.knn_neighbours=1")
    labelled = ("--benchmarks", "linear", "--linear-images", str(tmp_path / "labelled"))
    done = run(tmp_path / "out", *labelled, *scale)
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.glob("out/linear/*/metrics.json")]
    assert sorted((each["benchmark"], each["method"]) for each in found) == [("linear", "Scratch"), ("linear", "SoCo")]
    assert all(each["shortened"].startswith("iterations=1/100,batch=1/64,size=1/7") for each in found)
    rows = [line.split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {"| Scratch (shortened)", "| SoCo (shortened)", "| paper: SoCo (FPN)"} <= set(rows)
    # The numbers as the Kubeflow UI gets them.
    log = max(tmp_path.glob("out/logs/*.log")).read_text()
    assert re.search(r"""metadata=\{[^}]*["']SoCo knn["']: [\d.]+""", log)


@pytest.mark.parametrize("whole_group", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_in_pretraining_it_goes_on_and_no_orphan_writes(
    whole_group: bool, unbroken: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    metrics = wait_for_checkpoint(output, 4, process)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)
    assert processes_of(output) == []
    size = metrics.stat().st_size
    assert not list(output.glob("pretrain/*/done.json"))
    time.sleep(1)
    assert metrics.stat().st_size == size

    done = run(output)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[pretrain\].*going on from step [1-9]", done.stderr)
    expected = read_metrics(results(unbroken[0])["pretrain"][0] / "metrics.jsonl")
    assert len(expected) == STEPS
    assert read_metrics(results(output)["pretrain"][0] / "metrics.jsonl") == expected
    assert numbers(output) == numbers(unbroken[0])


@pytest.mark.slow
def test_real_images_run_to_the_report(shared_data: Path, tmp_path: Path) -> None:
    data = ("--images", str(shared_data / "imagenet-sample"), "--coco", str(shared_data / "coco-mini"))
    done = run(tmp_path / "out", *data, "--set", "pretrain.batch_size=100", "--set", "pretrain.epochs=2")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out")
    manifest = json.loads((found["proposals"][0] / "manifest.json").read_text())
    assert manifest["images"] == {"good": 800, "bad": 0}
    for folder in found["finetune"]:
        entry = json.loads((folder / "metrics.json").read_text())
        assert (entry["train_images"], entry["val_images"]) == (129, 33)  # two images of the 131 have no annotation
        assert all(0 <= value <= 100 for value in entry["metrics"].values())


def wait_for_checkpoint(output: Path, step: int, process: subprocess.Popen[bytes]) -> Path:
    """Return the metrics once a checkpoint of at least so many steps is there."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for path in output.glob("pretrain/*/checkpoints/step-*.pt"):
            if int(path.stem.removeprefix("step-")) >= step:
                return path.parents[1] / "metrics.jsonl"
        assert process.poll() is None, "the command ended before its pretraining was killed"
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached")


def processes_of(output: Path) -> list[str]:
    """Command lines of the living processes that name the output directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(output) in line:
            found.append(line[:200])
    return found


def numbers(output: Path) -> list[dict[str, object]]:
    """Metrics of both benchmarks, which everything before them determines."""
    found = [json.loads((folder / "metrics.json").read_text()) for folder in results(output)["finetune"]]
    return sorted((entry["method"], entry["metrics"]) for entry in found)  # type: ignore[return-value]

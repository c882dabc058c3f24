"""`torchrun` and `soco finetune`: two processes compute what one does, and end as one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.metrics import read_metrics
from soco_core.demo_data.stage import demo_data
from soco_core.recipes import parse_recipe
from tests.detection.test_stage import TINY

BIN = Path(sys.executable).parent
# Every anchor and proposal is taken, so that nothing is drawn: what one process draws, two would draw otherwise.
NOTHING_DRAWN = ["finetune.rpn_batch_per_image=100000", "finetune.roi_batch_per_image=100000"]
ONE_STEP = [*NOTHING_DRAWN, "finetune.iterations=1", "finetune.warmup_iterations=0"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(demo_data(parse_recipe(TINY), output=str(tmp_path_factory.mktemp("data"))).path)


def run(count: int, recipe: str, data: str, output: Path, *sets: str) -> subprocess.CompletedProcess[str]:
    program = [str(BIN / "soco")]
    if count > 1:
        program = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(count), *program]
    overrides = [part for item in sets for part in ("--set", item)]
    command = [*program, "finetune", "--recipe", recipe, *overrides, "--coco", data, "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_two_processes_compute_what_one_does(recipe: str, data: str, tmp_path: Path) -> None:
    results = []
    for count in (1, 2):
        done = run(count, recipe, data, tmp_path / str(count), *ONE_STEP)
        assert done.returncode == 0, done.stderr
        results.append(Path(done.stdout.strip()))
        assert [line.split(",")[0] for line in done.stderr.splitlines() if line.startswith("evaluate: 2/2")] == [
            "evaluate: 2/2 images"
        ]
    one, two = (read_metrics(path / "metrics.jsonl")[0] for path in results)
    for key in (key for key in one if key.startswith("loss")):
        assert two[key] == pytest.approx(one[key], rel=1e-5), key
    # A later step would not do: a rounding error lets NMS keep another of two proposals.
    weights = [load_file(path / "model.safetensors") for path in results]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        statistics = key.endswith(("running_mean", "running_var"))
        tolerance = {"rtol": 0.02, "atol": 1e-3} if statistics else {"rtol": 1e-4, "atol": 1e-6}
        np.testing.assert_allclose(weights[1][key], value, **tolerance, err_msg=key)


def test_evaluations_in_between_and_going_on(recipe: str, data: str, tmp_path: Path) -> None:
    sets = ("runtime.evaluate_steps=2", "runtime.checkpoint_steps=3")
    done = run(2, recipe, data, tmp_path, *sets)
    assert done.returncode == 0, done.stderr
    result = Path(done.stdout.strip())
    metrics = read_metrics(result / "metrics.jsonl")
    # After 2 and 4 of 6 steps, so before those with the numbers 2 and 4; the evaluation at the end is the result's own.
    assert [entry["step"] for entry in metrics if "APbb" in entry] == [2, 4]
    found = {item["image_id"] for item in json.loads((result / "predictions.json").read_text())}
    images = {item["id"] for item in json.loads((Path(data) / "annotations/instances_val.json").read_text())["images"]}
    assert found == images
    assert BenchmarkResult.read(result / "metrics.json").val_images == 2


def test_a_batch_that_cannot_be_divided_is_one_line(recipe: str, data: str, tmp_path: Path) -> None:
    done = run(2, recipe, data, tmp_path, "finetune.batch_size=3")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "finetune.batch_size" in line]
    assert len(lines) == 1
    assert "3 images cannot be divided evenly among 2 processes" in lines[0]


def test_an_image_that_the_second_process_cannot_evaluate_is_one_line(recipe: str, data: str, tmp_path: Path) -> None:
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    # Of two images to evaluate the second process has the second.
    second = json.loads((copied / "annotations/instances_val.json").read_text())["images"][1]["file_name"]
    image = copied / "images" / second
    image.write_bytes(image.read_bytes()[:2000])
    done = run(2, recipe, str(copied), tmp_path / "runs")
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert line.startswith(f"error: {image}: cannot be read")
    assert not list((tmp_path / "runs").rglob("done.json"))

"""The real command: stopped by SIGTERM it goes on to the bit; two processes compute what one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.weights import load_canonical
from tests.linear.conftest import TINY, write_classes

BIN = Path(sys.executable).parent
MOST_SECONDS = 240


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_classes(tmp_path_factory.mktemp("labelled"), train=7)


def command(root: str, output: Path, *overrides: str) -> list[str]:
    recipe = output.parent / "recipe.yaml"
    recipe.write_text(TINY)
    sets = [part for item in overrides for part in ("--set", item)]
    places = ["--images", root, "--init", "scratch", "--recipe", str(recipe), "--output", str(output)]
    return [str(BIN / "soco"), "linear", *places, *sets]


def run(program: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, timeout=MOST_SECONDS, env=environment, check=False)
    assert done.returncode == status, done.stderr
    return done


def result_of(output: Path) -> Path:
    (found,) = (output / "linear").iterdir()
    return found


def test_killed_softly_it_goes_on_to_the_bit(root: str, tmp_path: Path) -> None:
    settings = ("linear.epochs=20", "runtime.workers=1")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(command(root, whole, *settings)).stdout == f"{result_of(whole)}\n"
    program = command(root, broken, *settings)
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(program, stderr=said, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + MOST_SECONDS
    while len(read_metrics(path)) < 5 if (path := next(broken.glob("linear/*/metrics.jsonl"), None)) else True:
        assert time.monotonic() < deadline
        assert process.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.005)
    process.terminate()
    assert process.wait(MOST_SECONDS) == 130
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM; the state after step ")
    assert last.endswith(" of 100 is saved. Run the same command to go on")
    again = run(program).stderr
    assert "linear: going on from step" in again
    assert "k-NN" in again
    assert "training images" not in again  # the neighbours are known
    for name in ("metrics.jsonl", "linear.safetensors", "predictions.parquet", "metrics.json"):
        assert (result_of(broken) / name).read_bytes() == (result_of(whole) / name).read_bytes()


def test_two_processes_compute_what_one_does(root: str, tmp_path: Path) -> None:
    settings = ("linear.batch_size=5", "linear.learning_rates=[0.5,0.05]", "linear.epochs=3")
    run(command(root, tmp_path / "one", *settings))
    launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    run([*launcher, *command(root, tmp_path / "two", *settings)])
    one, two = result_of(tmp_path / "one"), result_of(tmp_path / "two")
    losses = [[entry["loss"] for entry in read_metrics(path / "metrics.jsonl")] for path in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    heads = [load_canonical(path / "linear.safetensors") for path in (one, two)]
    for key, value in heads[0].items():
        torch.testing.assert_close(heads[1][key], value, rtol=1e-3, atol=1e-5)
    results = [BenchmarkResult.read(path / "metrics.json") for path in (one, two)]
    assert results[0].metrics == results[1].metrics
    assert (results[1].train_images, results[1].batch_size, results[1].iterations) == (21, 5, 12)


def test_two_processes_end_as_one(root: str, tmp_path: Path) -> None:
    """A bad validation image, which only the second of them reads, is said once and in one line."""
    spoilt = write_classes(tmp_path / "images")
    (Path(spoilt) / "val/class-0/1.png").write_bytes(b"")
    launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    said = run([*launcher, *command(spoilt, tmp_path / "out")], status=1).stderr
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "val/class-0/1.png: empty file; an accuracy is of all validation images" in lines[0]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--init", "nothing.pth"], "error: --init nothing.pth: no such file or folder"),
        (["--images", "nothing"], "error: nothing: neither a folder nor the name of a data set"),
        (["--set", "linear.epochs=0"], "error: "),
        (
            ["--set", "linear.learning_rates=[1.0e+38]"],
            "error: linear: the loss with learning rate 1e+38 is not finite",
        ),
    ],
)
def test_what_is_wrong_is_one_line(more: list[str], line: str, root: str, tmp_path: Path) -> None:
    done = run([*command(root, tmp_path / "out"), *more], status=2)
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith(line)
    assert "Traceback" not in done.stderr

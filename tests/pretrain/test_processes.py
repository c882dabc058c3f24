"""`torchrun` and `soco pretrain`: several processes compute what one does, and end as one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.weights import load_canonical
from tests.scenes import write_scenes

BIN = Path(sys.executable).parent
SMALL = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.batch_size=8",
    "pretrain.warmup_epochs=0.0",
    # Rounding errors grow with each step, the faster the larger it is.
    "pretrain.base_learning_rate=0.05",
    "runtime.workers=0",
]
TWENTY_STEPS = [*SMALL, "pretrain.epochs=5"]
FOUR_STEPS = [*SMALL, "pretrain.epochs=1", "runtime.workers=1", "runtime.checkpoint_steps=1"]
IMAGES = 32


@dataclass
class Ended:
    """What the processes of one `torchrun` left."""

    status: int
    outputs: list[str]
    """Standard output of each process."""
    said: list[list[str]]
    """Lines on standard error of each process."""

    @property
    def result(self) -> Path:
        return Path(self.outputs[0].strip())

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.result / "done.json").read_text())["summary"]
        return summary


class Launch:
    """`torchrun` with a program in `count` processes, each with files of its own for what it says."""

    def __init__(self, count: int, folder: Path, program: list[str]) -> None:
        self.count, self.logs = count, folder / "logs"
        command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(count), "--redirects", "3"]
        command += ["--log-dir", str(self.logs), *program]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    def workers(self) -> dict[int, psutil.Process]:
        """The processes by rank."""
        children = psutil.Process(self.process.pid).children()
        return {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}

    def read(self, name: str) -> list[str]:
        return [next(self.logs.glob(f"*/attempt_0/{rank}/{name}.log")).read_text() for rank in range(self.count)]

    def wait(self) -> Ended:
        status = self.process.wait(timeout=240)
        return Ended(status, self.read("stdout"), [text.splitlines() for text in self.read("stderr")])


def command(proposals: str, output: Path | str, sets: list[str]) -> list[str]:
    overrides = [part for item in sets for part in ("--set", item)]
    return ["pretrain", "--recipe", "demo", *overrides, "--proposals", proposals, "--output", str(output)]


def soco(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "soco", *arguments], capture_output=True, text=True, check=False)


def alone(proposals: str, output: Path, sets: list[str]) -> Ended:
    done = soco(*command(proposals, output, sets))
    return Ended(done.returncode, [done.stdout], [done.stderr.splitlines()])


def together(count: int, proposals: str, folder: Path, sets: list[str]) -> Ended:
    return Launch(count, folder, [str(BIN / "soco"), *command(proposals, folder / "runs", sets)]).wait()


def losses(result: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(result / "metrics.jsonl")]


def progress(line: str) -> bool:
    return line.startswith("pretrain: ")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_scenes(folder / "images", IMAGES)
    return folder / "images"


@pytest.fixture(scope="module")
def proposals(scenes: Path) -> str:
    done = soco("propose", "--recipe", "demo", "--images", str(scenes), "--output", str(scenes.parent / "runs"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def one(proposals: str, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One process, twenty steps."""
    ended = alone(proposals, tmp_path_factory.mktemp("one"), TWENTY_STEPS)
    assert ended.status == 0, ended.said
    return ended


@pytest.fixture(scope="module")
def pair(proposals: str, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Two processes, four steps."""
    ended = together(2, proposals, tmp_path_factory.mktemp("pair"), FOUR_STEPS)
    assert ended.status == 0, ended.said
    return ended


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_losses_are_those_of_one_process_over_twenty_steps(
    count: int, one: Ended, proposals: str, tmp_path: Path
) -> None:
    """A learning rate, or a batch norm, that followed the local batch would be far off within a few steps."""
    ended = together(count, proposals, tmp_path, TWENTY_STEPS)
    assert ended.status == 0, ended.said
    ours, theirs = read_metrics(ended.result / "metrics.jsonl"), read_metrics(one.result / "metrics.jsonl")
    assert len(ours) == len(theirs) == 20
    assert losses(one.result)[-1] < losses(one.result)[0] - 0.5
    np.testing.assert_allclose(losses(ended.result), losses(one.result), rtol=0, atol=1e-4)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in ("learning_rate", "ema", "boxes_P2", "boxes_P3", "boxes_P4", "boxes_P5", "unusable_images"):
            assert mine[name] == other[name]
        assert mine["embedding_std"] == pytest.approx(other["embedding_std"], abs=1e-3)
        assert mine["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=0.02)
    how = {"processes": count, "images_per_process": 8 // count, "accumulation_steps": 1, "precision": "fp32"}
    assert {key: ended.summary[key] for key in how} == how
    assert ended.summary["batch_size"] == one.summary["batch_size"] == 8


def test_the_first_process_alone_speaks_and_writes(pair: Ended) -> None:
    assert pair.outputs[0].count("\n") == 1
    assert pair.outputs[1] == ""
    assert all(progress(line) for line in pair.said[0])
    assert pair.said[1] == []
    runs = pair.result.parents[1]
    assert {path.name for path in runs.glob("*/*")} == {pair.result.name}
    assert not list(pair.result.glob(".lock*.holder"))


def test_a_result_that_is_whole_is_only_said(pair: Ended, proposals: str, tmp_path: Path) -> None:
    again = Launch(2, tmp_path, [str(BIN / "soco"), *command(proposals, pair.result.parents[1], FOUR_STEPS)]).wait()
    assert again.status == 0
    assert again.outputs == pair.outputs
    assert again.said == [["pretrain: already done, nothing to compute"], []]


@pytest.mark.slow
def test_uneven_parts_and_passes_make_the_same_steps(proposals: str, tmp_path: Path) -> None:
    """Nine images in two passes, five and four of them: batch norm sees the same whoever computes them."""
    sets = [*SMALL, "pretrain.epochs=2", "pretrain.batch_size=9"]
    ours = together(2, proposals, tmp_path / "two", [*sets, "runtime.images_per_process=3"])
    theirs = alone(proposals, tmp_path / "one", [*sets, "runtime.images_per_process=5"])
    assert ours.status == theirs.status == 0, ours.said
    np.testing.assert_allclose(losses(ours.result), losses(theirs.result), rtol=0, atol=1e-5)
    how = {"processes": 2, "images_per_process": 3, "accumulation_steps": 2}
    assert {key: ours.summary[key] for key in how} == how
    for ended in (ours, theirs):
        (warning,) = [line for line in ended.said[0] if not progress(line)]
        assert "2 passes of each step: batch norm sees 5 images at once, not the 9 of the batch" in warning


def wait_for(condition: Callable[[], bool], launch: Launch) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        assert launch.process.poll() is None, launch.read("stderr")
        time.sleep(0.02)


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on_with_the_first_ones_checkpoint(
    pair: Ended, proposals: str, tmp_path: Path
) -> None:
    """Each process has a result directory of its own here, as on nodes that share none."""
    program = ["--no-python", "sh", "-c", 'exec "$0" "$@" --output ' + f'"{tmp_path}/runs$RANK"', str(BIN / "soco")]
    program += command(proposals, "unused", FOUR_STEPS)
    launch = Launch(2, tmp_path, program)
    wait_for(lambda: any(tmp_path.glob("runs0/pretrain/*/checkpoints/step-00000001.pt")), launch)
    launch.workers()[1].send_signal(signal.SIGTERM)
    ended = launch.wait()
    assert ended.status != 0
    lines = [line for line in ended.said[0] if not progress(line)]
    assert len(lines) == 1
    stopped = re.fullmatch(r"stopped by SIGTERM; the state after step (\d) of 4 is saved. Run the .* go on", lines[0])
    assert stopped
    assert ended.said[1] == []
    folder = next((tmp_path / "runs0" / "pretrain").iterdir())
    assert (folder / "checkpoints" / "latest").read_text().strip() == f"step-0000000{stopped[1]}.pt"
    assert not (tmp_path / "runs1").exists()

    again = Launch(2, tmp_path / "again", program).wait()
    assert again.status == 0, again.said
    assert f"pretrain: going on from step {stopped[1]} of 4" in again.said[0]
    assert read_metrics(again.result / "metrics.jsonl") == read_metrics(pair.result / "metrics.jsonl")
    ours, theirs = (load_canonical(run.result / "pretrained.safetensors") for run in (again, pair))
    assert all(bool((ours[key] == theirs[key]).all()) for key in theirs)


def test_a_bad_image_in_one_process_ends_all_with_one_line_and_the_state_before_it_is_saved(tmp_path: Path) -> None:
    write_scenes(tmp_path / "images", 16)
    found = soco("propose", "--recipe", "demo", "--images", str(tmp_path / "images"), "--output", str(tmp_path))
    # The second half of the second batch is process 1's.
    pictured = {round(i * 15 / 3) for i in range(4)}
    number = next(n for n in np.random.default_rng([0, 0]).permutation(16)[12:].tolist() if n not in pictured)
    image = tmp_path / "images" / f"{number:02d}.png"
    kept = image.read_bytes()
    image.write_bytes(b"not an image")
    sets = [*FOUR_STEPS, "pretrain.epochs=2", "runtime.checkpoint_steps=1000"]
    ended = together(2, found.stdout.strip(), tmp_path, sets)
    assert ended.status != 0
    assert [line for line in ended.said[0] if not progress(line)] == [ended.said[0][-1]]
    assert ended.said[0][-1].startswith("error: ")
    assert image.name in ended.said[0][-1]
    assert ended.said[1] == []
    (checkpoints,) = tmp_path.glob("runs/pretrain/*/checkpoints")
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-00000001.pt"]

    image.write_bytes(kept)
    again = alone(found.stdout.strip(), tmp_path / "runs", sets)
    assert again.status == 0, again.said
    assert "pretrain: going on from step 1 of 4" in again.said[0]


def test_a_divergence_ends_all_with_one_line_and_a_dump(proposals: str, tmp_path: Path) -> None:
    ended = together(2, proposals, tmp_path, [*TWENTY_STEPS, "pretrain.base_learning_rate=1e30"])
    assert ended.status != 0
    (line,) = [line for line in ended.said[0] if not progress(line)]
    found = re.fullmatch(
        r"error: pretraining diverged at step (\d+): the (loss|gradient norm) is .* in (\S+); .*", line
    )
    assert found, line
    assert ended.said[1] == []
    dump = Path(found[3])
    assert dump.parts[-2:] == ("diverged", f"step-{found[1]}")
    report = json.loads((dump / "report.json").read_text())
    assert [len(part) for part in report["images"]] == [4, 4]
    assert (dump / "images.png").exists()


def test_more_processes_than_images_are_refused_by_all(proposals: str, tmp_path: Path) -> None:
    ended = together(3, proposals, tmp_path, [*FOUR_STEPS, "pretrain.batch_size=2"])
    assert ended.status != 0
    assert [lines[-1:] for lines in ended.said[1:]] == [[], []]
    assert "a batch of 2 images has none for some of 3 processes; start at most 2" in ended.said[0][-1]

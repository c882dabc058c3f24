"""Training that is killed at random moments and gone on with: every loss is the unbroken run's, to the last bit."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from soco_core.artifacts.metrics import read_metrics
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
    "pretrain.epochs=2",
    "pretrain.batch_size=4",
    "pretrain.warmup_epochs=0.0",
    "runtime.workers=1",
    "runtime.checkpoint_steps=4",
]
IMAGES = 24
STEPS = 12
DETECTOR = [
    "model.backbone=resnet18",
    "model.fpn_channels=16",
    "model.head_convs=1",
    "model.head_fc_size=32",
    "demo_data.train_images=6",
    "demo_data.val_images=2",
    "demo_data.unlabelled_images=1",
    "demo_data.image_size=64",
    "finetune.iterations=12",
    "finetune.batch_size=2",
    "finetune.warmup_iterations=2",
    "finetune.train_sizes=[48, 64]",
    "finetune.test_size=64",
    "finetune.max_size=128",
    "finetune.proposals_train=40",
    "finetune.proposals_test=40",
    "finetune.mask_convs=1",
    "finetune.mask_channels=8",
    "finetune.precise_bn_images=4",
    "runtime.workers=1",
    "runtime.checkpoint_steps=4",
]
WAYS = [
    pytest.param(1, "kill_all", marks=pytest.mark.slow),  # also in tests/pretrain/test_stage.py
    pytest.param(1, "preempt", marks=pytest.mark.slow),
    pytest.param(2, "kill_one", marks=pytest.mark.slow),
    pytest.param(2, "kill_all", marks=pytest.mark.slow),
    (2, "preempt"),
]
ROUNDS = [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 10))]


def command(stage: str, sets: list[str], **options: Path | str) -> list[str]:
    overrides = [part for item in sets for part in ("--set", item)]
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [str(BIN / "soco"), stage, "--recipe", "demo", *overrides, *named]


class Training:
    """A training command in one process, or in several under `torchrun`.

    Args:
        program: the command of a stage.
        count: how many processes; one runs without `torchrun`.
        folder: where each process's output goes.
        more: options of `torchrun`.
    """

    started: ClassVar[list[psutil.Process]] = []

    def __init__(self, program: list[str], count: int, folder: Path, *more: str) -> None:
        self.count = count
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.error = self.logs / "stderr.log"
        if count > 1:
            launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(count), "--redirects", "3"]
            program = [*launcher, "--log-dir", str(self.logs), *more, *program]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.error.open("w") as error:
            self.process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=error, env=environment)
        self.started.append(psutil.Process(self.process.pid))

    def ranks(self) -> dict[int, psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}

    def said(self, attempt: int = 0) -> str:
        """What the first process said."""
        logs = list(self.logs.glob(f"*/attempt_{attempt}/0/stderr.log"))
        return (logs[0] if logs else self.error).read_text()

    def wait(self) -> int:
        return self.process.wait(timeout=300)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.01)


def kill_all(training: Training, _: random.Random) -> None:
    """As when the machine goes down."""
    processes = psutil.Process(training.process.pid).children(recursive=True)
    training.process.kill()
    for process in processes:
        if process.is_running():
            process.kill()
    training.wait()


def kill_one(training: Training, generator: random.Random) -> None:
    """As when one process is out of memory."""
    training.ranks()[generator.randrange(2)].kill()
    began = time.monotonic()
    assert training.wait() != 0
    assert time.monotonic() - began < 30


def preempt(training: Training, _: random.Random) -> None:
    """As when the cluster wants the machine back."""
    training.process.terminate()
    began = time.monotonic()
    status = training.wait()
    assert time.monotonic() - began < 30
    last = training.said().splitlines()[-1]
    stopped = re.fullmatch(r"stopped by SIGTERM; the state after step (\d+) of 12 is saved. Run the .* go on", last)
    assert stopped, training.said()
    assert list(training.logs.parent.glob(f"runs/*/*/checkpoints/step-{int(stopped[1]):08d}.pt"))
    # `torchrun` has a status of its own, and its children the command's.
    assert status == (130 if training.count == 1 else 1)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Of a test that failed in the middle."""
    yield
    for process in Training.started:
        with suppress(psutil.NoSuchProcess):
            for each in [*process.children(recursive=True), process]:
                each.kill()
    Training.started.clear()


def lines(folder: Path) -> int:
    return max((len(read_metrics(path)) for path in folder.glob("runs/*/*/metrics.jsonl")), default=0)


def result(folder: Path) -> Path:
    (done,) = folder.glob("runs/*/*/done.json")
    return done.parent


def same_tensors(one: Path, other: Path) -> bool:
    """Compare to the last bit; the order of a header's entries is not fixed."""
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    write_scenes(folder / "images", IMAGES, (110, 90), (45, 40))
    program = command("propose", SMALL, images=folder / "images", output=folder / "runs")
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def unbroken(proposals: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The result of a run that nothing disturbs, for a number of processes."""
    found: dict[int, Path] = {}

    def run(count: int) -> Path:
        if count not in found:
            folder = tmp_path_factory.mktemp("unbroken")
            training = Training(command("pretrain", SMALL, proposals=proposals, output=folder / "runs"), count, folder)
            assert training.wait() == 0, training.said()
            found[count] = result(folder)
        return found[count]

    return run


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize(("count", "way"), WAYS)
def test_every_later_loss_is_the_unbroken_runs(
    count: int,
    way: str,
    number: int,
    proposals: str,
    unbroken: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    generator = random.Random(f"{count} {way} {number}")
    moment, delay = generator.randrange(1, STEPS - 2), generator.uniform(0, 0.3)
    program = command("pretrain", SMALL, proposals=proposals, output=tmp_path / "runs")
    training = Training(program, count, tmp_path)
    training.wait_for(lambda: lines(tmp_path) >= moment)
    time.sleep(delay)
    {"kill_all": kill_all, "kill_one": kill_one, "preempt": preempt}[way](training, generator)
    assert not list(tmp_path.glob("runs/*/*/done.json"))
    checkpoints = list(tmp_path.glob("runs/*/*/checkpoints/step-*.pt"))

    again = Training(program, count, tmp_path / "again")
    assert again.wait() == 0, again.said()
    assert ("going on from step" in again.said()) == bool(checkpoints)
    ours, theirs = read_metrics(result(tmp_path) / "metrics.jsonl"), read_metrics(unbroken(count) / "metrics.jsonl")
    assert len(theirs) == STEPS
    assert ours == theirs
    assert same_tensors(*(folder / "pretrained.safetensors" for folder in (result(tmp_path), unbroken(count))))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_process_of_the_loader_is_one_line_and_the_run_goes_on(
    count: int, proposals: str, unbroken: Callable[[int], Path], tmp_path: Path
) -> None:
    """As when its memory ran out."""
    program = command("pretrain", SMALL, proposals=proposals, output=tmp_path / "runs")
    training = Training(program, count, tmp_path)
    training.wait_for(lambda: lines(tmp_path) >= 2)
    trainer = training.ranks()[1] if count > 1 else psutil.Process(training.process.pid)
    trainer.children()[0].kill()
    assert training.wait() == (1 if count > 1 else 2)
    last = training.said().splitlines()[-1]
    assert re.match(r"error: a process that loads images .*was killed.* runtime\.workers", last), training.said()
    assert "Traceback" not in training.said()
    again = Training(program, count, tmp_path / "again")
    assert again.wait() == 0, again.said()
    assert "going on from step" in again.said()
    assert read_metrics(result(tmp_path) / "metrics.jsonl") == read_metrics(unbroken(count) / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_before_the_first_step_ends_with_one_line(count: int, proposals: str, tmp_path: Path) -> None:
    program = command("pretrain", SMALL, proposals=proposals, output=tmp_path / "runs")
    training = Training(program, count, tmp_path)
    training.wait_for(lambda: any(tmp_path.glob("runs/*/*/.lock.holder")))
    began = time.monotonic()
    training.process.terminate()
    assert training.wait() == (1 if count > 1 else 130)
    assert time.monotonic() - began < 20
    assert training.said().splitlines()[-1].startswith("stopped")
    assert "Traceback" not in training.said()
    assert not any(tmp_path.glob("runs/*/*/.lock.holder"))


@pytest.mark.parametrize("number", ROUNDS)
def test_a_crashed_worker_and_torchrun_begins_again_from_the_last_checkpoint(
    number: int, proposals: str, unbroken: Callable[[int], Path], tmp_path: Path
) -> None:
    """Twice: what an earlier group left in the store of the launcher disturbs no later one."""
    generator = random.Random(f"restart {number}")
    program = command("pretrain", SMALL, proposals=proposals, output=tmp_path / "runs")
    training = Training(program, 2, tmp_path, "--max-restarts", "2")
    for attempt, moment in enumerate((generator.randrange(5, 7), generator.randrange(9, 11))):
        training.wait_for(lambda moment=moment: lines(tmp_path) >= moment)  # type: ignore[misc]
        training.wait_for(lambda: any(tmp_path.glob("runs/*/*/checkpoints/step-*.pt")))
        killed = training.ranks()
        killed[generator.randrange(2)].kill()
        began = time.monotonic()
        training.wait_for(lambda killed=killed: not any(process.is_running() for process in killed.values()))  # type: ignore[misc]
        assert time.monotonic() - began < 20
        training.wait_for(lambda attempt=attempt: bool(list(training.logs.glob(f"*/attempt_{attempt + 1}"))))  # type: ignore[misc]
        training.wait_for(lambda attempt=attempt: "going on from step" in training.said(attempt + 1))  # type: ignore[misc]
    assert training.wait() == 0, training.said(2)
    assert read_metrics(result(tmp_path) / "metrics.jsonl") == read_metrics(unbroken(2) / "metrics.jsonl")


def test_a_finetuning_goes_on_the_same_way(tmp_path: Path) -> None:
    made = subprocess.run(
        command("demo-data", DETECTOR, output=tmp_path / "data"), capture_output=True, text=True, check=True
    )
    kept = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        program = command("finetune", DETECTOR, coco=made.stdout.strip(), output=folder / "runs")
        training = Training(program, 1, folder)
        if name == "killed":
            moment = random.Random(name).randrange(5, 10)
            training.wait_for(lambda folder=folder, moment=moment: lines(folder) >= moment)  # type: ignore[misc]
            training.wait_for(lambda folder=folder: any(folder.glob("runs/*/*/checkpoints/step-*.pt")))  # type: ignore[misc]
            kill_all(training, random.Random())
            training = Training(program, 1, folder / "again")
        assert training.wait() == 0, training.said()
        assert ("finetune: going on from step" in training.said()) == (name == "killed")
        kept.append(result(folder))
    assert (kept[0] / "metrics.jsonl").read_bytes() == (kept[1] / "metrics.jsonl").read_bytes()
    assert same_tensors(kept[0] / "model.safetensors", kept[1] / "model.safetensors")

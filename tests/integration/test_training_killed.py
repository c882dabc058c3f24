"""Training that is killed at random moments and gone on with: every loss is the unbroken run's, to the last bit."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from soco_core.artifacts.metrics import read_metrics
from tests.integration.trainings import KILLS, STEPS, Training, apart, command, lines, result, same_tensors
from tests.scenes import write_scenes

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
WAYS = [
    pytest.param(1, "kill_all", marks=pytest.mark.slow),  # also in tests/pretrain/test_stage.py
    pytest.param(1, "preempt", marks=pytest.mark.slow),
    pytest.param(1, "interrupt", marks=pytest.mark.slow),
    pytest.param(2, "kill_one", marks=pytest.mark.slow),
    pytest.param(2, "kill_all", marks=pytest.mark.slow),
    (2, "preempt"),
    pytest.param(2, "interrupt", marks=pytest.mark.slow),
]
ROUNDS = [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 10))]


@pytest.fixture(autouse=True)
def trainings_are_apart() -> Iterator[None]:
    with apart():
        yield


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
    KILLS[way](training, generator)
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

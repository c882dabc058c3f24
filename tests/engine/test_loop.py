"""The loop of all training with a task that only counts: occasions, stops, errors, disks and stores that fail."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from soco_core import storage
from soco_core.artifacts.metrics import MetricsWriter, read_metrics
from soco_core.artifacts.result import ResultDirectory, locate, writing
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe, RuntimeConfig
from soco_core.engine import checkpoints, loading, loop
from soco_core.engine.checkpoint_file import load_checkpoint, write_checkpoint
from soco_core.engine.distributed import Processes
from soco_core.engine.loop import Finished, TrainingLoop, UnfinishedStepError
from soco_core.errors import InputError, InterruptedStageError, SocoError
from soco_core.tracking import Tracker

if TYPE_CHECKING:
    from conftest import FaultyStore

STEPS = 12


class Counting:
    """Adds up the numbers of its batches."""

    name = "count"
    images_per_step = 4
    saved_before = 0

    def __init__(self, epoch: int = 0, total: int = STEPS) -> None:
        self.total_steps, self.steps_per_epoch = total, epoch
        self.sum = torch.zeros(1)
        self.computed: list[int] = []
        self.events: dict[int, Any] = {}
        """Called before a step is loaded."""
        self._unread: list[Finished] = []

    def batches(self, first_step: int) -> Generator[int, None, None]:
        for step in range(first_step, self.total_steps):
            self.events.get(step, lambda: None)()
            yield step * step

    def step(self, step: int, batch: int) -> None:
        self.sum += batch
        self.computed.append(step)
        self._unread.append(Finished(step, {"loss": float(self.sum)}, "note"))

    def measured(self) -> Iterator[Finished]:
        unread, self._unread = self._unread, []
        yield from unread

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.sum = state["sum"]


def found(output: Path | str) -> ResultDirectory:
    return locate(str(output), "count", 1, Recipe(), ("seed",), {})


def train(task: Counting, result: ResultDirectory, read_steps: int = 1, **runtime: Any) -> None:
    settings = RuntimeConfig(**{"checkpoint_steps": 1000, "checkpoint_minutes": 1000.0, **runtime})
    result.path.mkdir(parents=True, exist_ok=True)
    TrainingLoop(task, settings, Processes("cpu"), result, Tracker(None, result.path), read_steps).run()


def saved(result: ResultDirectory) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (result.path / "checkpoints").glob("step-*.pt"))


def losses(result: ResultDirectory) -> list[float]:
    entries = read_metrics(result.path / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == list(range(len(entries)))
    assert [entry["step"] for entry in read_metrics(result.path / "speed.jsonl")] == list(range(len(entries)))
    return [entry["loss"] for entry in entries]


EXPECTED = [float(sum(n * n for n in range(step + 1))) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("epoch", "runtime", "expected"),
    [
        (0, {}, [12]),
        (0, {"checkpoint_steps": 5}, [5, 10, 12]),
        (4, {}, [4, 8, 12]),
        (5, {"checkpoint_steps": 4}, [4, 5, 8, 10, 12]),
        (0, {"checkpoint_minutes": 1e-9}, list(range(13))),
        (3, {"checkpoints_kept": 1, "checkpoint_keep_epochs": 2}, [6, 12]),
        (2, {"checkpoints_kept": 2, "checkpoint_keep_epochs": 2}, [4, 8, 10, 12]),
        (0, {"checkpoints_kept": 1, "checkpoint_keep_epochs": 2}, [12]),
    ],
)
def test_the_occasions_of_checkpoints(tmp_path: Path, epoch: int, runtime: dict[str, Any], expected: list[int]) -> None:
    result = found(tmp_path)
    train(Counting(epoch), result, **{"checkpoints_kept": 99, **runtime})
    assert saved(result) == expected
    assert losses(result) == EXPECTED


def test_the_share_of_time_spent_waiting_for_batches(tmp_path: Path) -> None:
    task, result = Counting(total=4), found(tmp_path)
    task.events = {2: lambda: time.sleep(0.5)}
    train(task, result)
    waits = [entry["data_wait"] for entry in read_metrics(result.path / "speed.jsonl")]
    assert all(0 <= share <= 1 for share in waits)
    assert max(waits) == waits[2] > 0.5


def test_the_clock_saves_once_in_so_many_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soco_core.engine import records

    now = [0.0]
    monkeypatch.setattr(records.time, "monotonic", lambda: now[0])
    task, result = Counting(), found(tmp_path)
    for step in range(STEPS):
        task.events[step] = lambda: now.__setitem__(0, now[0] + 40)
    train(task, result, checkpoint_minutes=2.0, checkpoint_steps=5, checkpoints_kept=99)
    # 120 s are over while the batch of the third step is loaded; step 5 counts as an occasion, too.
    assert saved(result) == [2, 5, 7, 10, 12]


def test_it_goes_on_from_its_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = found(tmp_path)
    task = Counting()
    task.events[7] = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(task, result, checkpoint_steps=5)
    assert saved(result) == [5]
    again = Counting()
    train(again, result, checkpoint_steps=5)
    assert again.computed == list(range(5, STEPS))
    assert losses(result) == EXPECTED
    said = capsys.readouterr().err.splitlines()
    assert "count: going on from step 5 of 12" in said
    done = Counting()
    train(done, result)
    assert done.computed == []


def test_progress_is_shown_from_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Counting(), found(tmp_path))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("count: 1/12")]
    assert len(lines) == 1
    assert lines[0].endswith("left | note")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    task, result = Counting(), found(tmp_path)
    task.events[7] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(InterruptedStageError) as stop:
        train(task, result)
    assert str(stop.value) == (
        f"stopped by {number.name}; the state after step 7 of 12 is saved. Run the same command to go on"
    )
    assert saved(result) == [7]
    again = Counting()
    train(again, result)
    assert again.computed == list(range(7, STEPS))
    assert losses(result) == EXPECTED


def test_a_signal_while_a_batch_does_not_come_saves_the_state_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "CLOSE_SECONDS", 0.2)
    answer = threading.Event()
    task, result = Counting(), found(tmp_path)

    def hang() -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        answer.wait(30)

    task.events[7] = hang
    began = time.monotonic()
    with pytest.raises(InterruptedStageError, match="the state after step 7 of 12 is saved"):
        train(task, result)
    assert time.monotonic() - began < 10
    answer.set()
    assert saved(result) == [7]
    again = Counting()
    train(again, result)
    assert again.computed == list(range(7, STEPS))
    assert losses(result) == EXPECTED


def test_a_signal_between_the_parts_of_a_step_saves_the_state_before_it(tmp_path: Path) -> None:
    task, result = Counting(), found(tmp_path)
    result.path.mkdir(parents=True)
    training = TrainingLoop(
        task, RuntimeConfig(checkpoint_steps=1000), Processes("cpu"), result, Tracker(None, result.path)
    )
    whole = task.step

    def in_parts(step: int, batch: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        if training.stopping():
            raise UnfinishedStepError
        whole(step, batch)

    task.step = in_parts  # type: ignore[method-assign]
    with pytest.raises(InterruptedStageError, match="the state after step 4 of 12 is saved"):
        training.run()
    assert saved(result) == [4]
    again = Counting()
    train(again, result)
    assert losses(result) == EXPECTED


def test_a_step_that_is_too_long_for_a_signal_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "LONG_SECONDS", 0.1)
    task, result = Counting(), found(tmp_path)
    result.path.mkdir(parents=True)
    whole = task.step

    def slow(step: int, batch: int) -> None:
        time.sleep(0.15 if step in (3, 5) else 0.0)
        whole(step, batch)

    task.step = slow  # type: ignore[method-assign]
    task.events[1] = lambda: time.sleep(0.2)  # loading can be interrupted
    runtime, tracker = RuntimeConfig(checkpoint_steps=1000), Tracker(None, result.path)
    TrainingLoop(task, runtime, Processes("cpu"), result, tracker, shorten="less does").run()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: count: step 3 could not be stopped for 0 s, and 30 s after a signal it may be killed, back to its "
        "last checkpoint: less does"
    ]


@pytest.mark.parametrize("read_steps", [1, 100])
def test_what_cannot_be_loaded_is_named_after_the_state_before_it_is_saved(tmp_path: Path, read_steps: int) -> None:
    def fail() -> None:
        raise InputError("7.png: no image")

    task, result = Counting(), found(tmp_path)
    task.events[7] = fail
    with pytest.raises(InputError, match=r"^7\.png: no image$"):
        train(task, result, read_steps)
    assert saved(result) == [7]
    assert losses(result) == EXPECTED[:7]
    again = Counting()
    train(again, result)
    assert again.computed == list(range(7, STEPS))


def goes_away(store: FaultyStore, result: ResultDirectory, keys: str) -> Any:
    """Wait until the store has the first checkpoint, then let it refuse everything that is written."""

    def away() -> None:
        deadline = time.monotonic() + 30
        while not storage.exists(f"{result.uri}/checkpoints/latest"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        store.fail(keys, 403, times=-1, method="PUT")

    return away


class Disk:
    """A disk that is full while `full` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.last_that_fits = ""
        """A checkpoint that may still be in the writer's hands when the disk becomes full."""
        self.tried: list[str] = []
        self.bring = bring = MetricsWriter._bring

        def write(path: Path, state: dict[str, Any]) -> None:
            self.tried.append(path.name)
            if self.full and path.name != self.last_that_fits:
                raise RuntimeError("writing failed") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_checkpoint(path, state)

        def bring_if_there_is_room(writer: MetricsWriter) -> None:
            if self.full:
                writer.trouble = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            else:
                bring(writer)

        monkeypatch.setattr(checkpoints, "write_checkpoint", write)
        monkeypatch.setattr(MetricsWriter, "_bring", bring_if_there_is_room)


def test_a_full_disk_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, task, result = Disk(monkeypatch), Counting(), found(tmp_path)
    task.events[3] = lambda: setattr(disk, "full", True)
    disk.last_that_fits = "step-00000002.pt"
    seen: list[Any] = []
    task.events[8] = lambda: (seen.append(losses(result)), setattr(disk, "full", False))
    train(task, result, checkpoint_steps=2, checkpoints_kept=99)
    assert task.computed == list(range(STEPS))
    assert seen == [EXPECTED[:3]]
    assert saved(result) == [2, 10, 12]
    assert losses(result) == EXPECTED
    assert "step-00000004.pt" not in disk.tried  # its lines could not be kept
    said = [line for line in capsys.readouterr().err.splitlines() if "1/12" not in line and "12/12" not in line]
    assert said == [
        f"warning: count: {result.path} cannot be written (No space left on device); free some space. Training goes "
        "on: its lines wait in memory, and the next checkpoint is tried as usual",
        "count: the disk can be written again, nothing was lost",
    ]


def test_space_is_asked_for_only_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: Path, state: dict[str, Any]) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoints, "write_checkpoint", broken)
    task = Counting()
    task.events[9] = lambda: time.sleep(0.2)
    with pytest.raises(SocoError, match=r"\(Input/output error\).*; see to that disk and run the same command again$"):
        train(task, found(tmp_path), checkpoint_steps=4)
    said = capsys.readouterr().err
    assert "cannot be written (Input/output error); see to that disk. Training goes on" in said
    assert "free some space" not in said


@pytest.mark.parametrize("lines_fit", [True, False])
def test_a_disk_that_is_full_to_the_end_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines_fit: bool
) -> None:
    disk, task = Disk(monkeypatch), Counting()
    if lines_fit:
        monkeypatch.setattr(MetricsWriter, "_bring", disk.bring)
    task.events[9] = lambda: setattr(disk, "full", True)
    disk.last_that_fits = "step-00000008.pt"
    result = found(tmp_path)
    result.path.mkdir(parents=True)
    with pytest.raises(SocoError) as error:
        train(task, result, checkpoint_steps=4)
    assert task.computed == list(range(STEPS))
    assert str(error.value) == (
        f"count: the checkpoint of step 12 could not be written to {result.path}/checkpoints (No space left on device),"
        " the newest one is that of step 8; free some space and run the same command again"
    )
    disk.full = False
    again = Counting()
    train(again, result)
    assert again.computed == [8, 9, 10, 11]
    assert losses(result) == EXPECTED


def test_a_disk_that_is_full_at_a_stop_is_said_in_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, task, result = Disk(monkeypatch), Counting(), found(tmp_path)
    task.events[5] = lambda: setattr(disk, "full", True)
    disk.last_that_fits = "step-00000004.pt"
    task.events[6] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedStageError) as stop:
        train(task, result, checkpoint_steps=4)
    assert "step 6 could not be written" in str(stop.value)
    assert "the last checkpoint is kept" in str(stop.value)
    assert saved(result) == [4]


def test_what_cannot_be_saved_at_all_ends_the_training_at_once(tmp_path: Path) -> None:
    task = Counting()
    task.state_dict = lambda: {"x": (number for number in ())}  # type: ignore[method-assign]
    task.events[4] = lambda: time.sleep(0.5)
    with pytest.raises(TypeError, match="generator"):
        train(task, found(tmp_path), checkpoint_steps=2)
    assert len(task.computed) < STEPS


def compute(task: Counting, **runtime: Any) -> Any:
    def run(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        train(task, result, **runtime)
        return {"sum": float(task.sum)}

    return run


def test_a_store_that_is_away_for_a_while_gets_everything_later(
    faulty_s3: FaultyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    task, result = Counting(), found(faulty_s3.uri)
    task.events[3] = goes_away(faulty_s3, result, "checkpoints|jsonl")
    task.events[11] = faulty_s3.faults.clear
    complete(result, Recipe(), None, compute(task, checkpoint_steps=2))
    assert result.summary == {"sum": EXPECTED[-1]}
    names = {name for name, _ in storage.list_objects(result.uri)}
    kept = {"checkpoints/latest", "checkpoints/step-00000010.pt", "checkpoints/step-00000012.pt"}
    assert names == {"config.yaml", "done.json", "metrics.jsonl", "speed.jsonl", *kept}
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) <= 1


def test_a_store_that_is_away_to_the_end_is_an_error_and_the_same_command_trains_nothing_anew(
    faulty_s3: FaultyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    task, result = Counting(), found(faulty_s3.uri)
    task.events[3] = goes_away(faulty_s3, result, "checkpoints|jsonl|done")
    with pytest.raises(InputError, match="AccessDenied") as error:
        complete(result, Recipe(), None, compute(task, checkpoint_steps=2))
    assert "\n" not in str(error.value)
    assert task.computed == list(range(STEPS))
    assert saved(result) == [10, 12]
    assert losses(result) == EXPECTED

    faulty_s3.faults.clear()
    again = Counting()
    complete(result, Recipe(), None, compute(again, checkpoint_steps=2))
    assert again.computed == []
    assert losses(result) == EXPECTED
    assert [entry["loss"] for entry in map_lines(storage.read_text(f"{result.uri}/metrics.jsonl"))] == EXPECTED


def test_a_stop_while_the_store_is_away_says_where_the_state_is(faulty_s3: FaultyStore) -> None:
    task, result = Counting(), found(faulty_s3.uri)
    task.events[3] = goes_away(faulty_s3, result, "checkpoints|jsonl")
    task.events[5] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedStageError) as stop, writing(result, Recipe()):
        train(task, result, checkpoint_steps=2)
    assert str(stop.value) == (
        f"stopped by SIGTERM; the state after step 5 of 12 is saved in {result.path}, and not yet in the store. Run "
        "the same command to go on"
    )
    again = Counting()
    with writing(result, Recipe()):
        train(again, result)
    assert again.computed == list(range(5, STEPS))
    assert losses(result) == EXPECTED


def test_what_an_earlier_attempt_could_not_send_is_sent_before_anything_is_computed(faulty_s3: FaultyStore) -> None:
    task, result = Counting(), found(faulty_s3.uri)
    task.events[3] = goes_away(faulty_s3, result, "checkpoints|jsonl")
    task.events[5] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedStageError, match="not yet in the store"), writing(result, Recipe()):
        train(task, result, checkpoint_steps=2)
    faulty_s3.faults.clear()
    again = Counting()
    again.events[5] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedStageError, match=r"step 5 of 12 is saved\. Run"), writing(result, Recipe()):
        train(again, result)
    assert again.computed == []
    assert storage.exists(f"{result.uri}/checkpoints/step-00000005.pt")
    assert storage.read_text(f"{result.uri}/checkpoints/latest") == "step-00000005.pt"
    sent = [entry["loss"] for entry in map_lines(storage.read_text(f"{result.uri}/metrics.jsonl"))]
    assert sent == EXPECTED[:5]


def test_what_the_store_has_is_not_sent_again(faulty_s3: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    task, result = Counting(), found(faulty_s3.uri)
    task.events[5] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedStageError), writing(result, Recipe()):
        train(task, result)
    sent: list[str] = []
    publish = ResultDirectory.publish
    monkeypatch.setattr(
        ResultDirectory, "publish", lambda self, *paths: (sent.extend(p.name for p in paths), publish(self, *paths))
    )
    again = Counting()
    again.events[5] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(InterruptedStageError), writing(result, Recipe()):
        train(again, result)
    assert not [name for name in sent if name.startswith("step-")]


def test_a_checkpoint_of_the_loop_holds_what_the_task_gave(tmp_path: Path) -> None:
    result = found(tmp_path)
    train(Counting(), result)
    state = load_checkpoint(result.path / "checkpoints" / "step-00000012.pt")
    assert state.keys() == {"sum", "step", "format", "result"}
    assert float(state["sum"]) == EXPECTED[-1]


def map_lines(text: str) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in text.splitlines()]

"""Checkpoints that are whole, damaged, hostile, of another result, or of another time."""

from __future__ import annotations

import errno
import os
import pickle
import random
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, locate, writing
from soco_core.config import Recipe
from soco_core.engine import checkpoint_file
from soco_core.engine.checkpoint_file import load_checkpoint, write_checkpoint
from soco_core.engine.checkpoints import FORMAT, Checkpointer
from soco_core.errors import InputError, ResultLockedError, SocoError

if TYPE_CHECKING:
    from conftest import FaultyStore


@pytest.fixture
def result(tmp_path: Path) -> ResultDirectory:
    return locate(str(tmp_path), "pretrain", 1, Recipe(), ("seed",), {})


def state(step: int) -> dict[str, Any]:
    return {"weights": {"w": torch.full((1000,), float(step))}, "text": "x", "numbers": [1, 2.5, None]}


def names(result: ResultDirectory) -> list[str]:
    return sorted(path.name for path in (result.path / "checkpoints").iterdir())


def save(checkpointer: Checkpointer, step: int, saved: dict[str, Any] | None = None) -> Path:
    """Save, wait for it, and return the file."""
    checkpointer.save(step, state(step) if saved is None else saved)
    checkpointer.wait()
    assert checkpointer.saved == step, checkpointer.trouble or checkpointer.failure
    return checkpointer.folder / f"step-{step:08d}.pt"


def latest_step(result: ResultDirectory) -> int | None:
    loaded = Checkpointer(result, 2).load_latest()
    return None if loaded is None else loaded["step"]


def test_a_state_comes_back_as_it_was(result: ResultDirectory) -> None:
    saved = {**state(3), "optimizer": OrderedDict(momentum=torch.rand(3).half()), "random": torch.get_rng_state()}
    path = save(Checkpointer(result, keep=2), 3, saved)
    assert path.name == "step-00000003.pt"
    again = Checkpointer(result, keep=2)
    loaded = again.load_latest()
    assert loaded is not None
    assert again.saved == loaded["step"] == 3
    assert (loaded["format"], loaded["result"]) == (FORMAT, result.fingerprint)
    assert loaded["text"] == "x"
    assert loaded["numbers"] == [1, 2.5, None]
    assert torch.equal(loaded["weights"]["w"], saved["weights"]["w"])
    assert torch.equal(loaded["optimizer"]["momentum"], saved["optimizer"]["momentum"])
    assert torch.equal(loaded["random"], saved["random"])


def test_what_the_training_changes_while_it_is_written_is_not_in_it(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits until the next step is done; saving again waits for the writer."""
    go_on, began = threading.Event(), threading.Event()

    def slow(path: Path, saved: dict[str, Any]) -> None:
        began.set()
        assert go_on.wait(30)
        write_checkpoint(path, saved)

    monkeypatch.setattr("soco_core.engine.checkpoints.write_checkpoint", slow)
    weights = {"w": torch.zeros(3), "steps": [1], "group": {"lr": 0.1}}
    checkpointer = Checkpointer(result, keep=2)
    checkpointer.save(1, {"weights": weights})
    assert began.wait(30)
    weights["w"].add_(1)  # type: ignore[attr-defined]
    weights["steps"].append(2)  # type: ignore[attr-defined]
    weights["group"]["lr"] = 0.2  # type: ignore[index]
    assert checkpointer.saved is None
    threading.Timer(0.1, go_on.set).start()
    checkpointer.save(2, {"weights": weights})
    assert checkpointer.saved == 1
    checkpointer.wait()
    one, two = (load_checkpoint(result.path / "checkpoints" / f"step-0000000{step}.pt") for step in (1, 2))
    assert one["weights"]["w"].tolist() == [0, 0, 0]
    assert (one["weights"]["steps"], one["weights"]["group"]) == ([1], {"lr": 0.1})
    assert two["weights"]["w"].tolist() == [1, 1, 1]
    assert (two["weights"]["steps"], two["weights"]["group"]) == ([1, 2], {"lr": 0.2})


def test_the_step_that_is_saved_is_the_one_given(result: ResultDirectory) -> None:
    assert load_checkpoint(save(Checkpointer(result, keep=1), 5, {"step": 4}))["step"] == 5


def test_nothing_saved_is_none(result: ResultDirectory) -> None:
    assert latest_step(result) is None


def test_the_newest_are_kept_and_pointed_to(result: ResultDirectory) -> None:
    for step in (9, 10, 100):
        save(Checkpointer(result, keep=2), step)
    assert names(result) == ["latest", "step-00000010.pt", "step-00000100.pt"]
    assert (result.path / "checkpoints" / "latest").read_text() == "step-00000100.pt"


def test_those_of_every_so_many_steps_stay_for_good(result: ResultDirectory) -> None:
    checkpointer = Checkpointer(result, keep=2, keep_every=20)
    for step in (0, 10, 20, 25, 30, 40, 50, 55, 60, 70):
        save(checkpointer, step)
    kept = [int(name.removeprefix("step-").removesuffix(".pt")) for name in names(result) if name != "latest"]
    assert kept == [20, 40, 60, 70]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the weights: torch itself would load it
    path.write_bytes(data)


def flip_the_pickle(path: Path) -> None:
    data = path.read_bytes()
    where = data.index(b"weights")
    path.write_bytes(data[:where] + b"\xff" + data[where + 1 :])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_text(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


def not_a_mapping(path: Path) -> None:
    torch.save(torch.ones(3), path)


@pytest.mark.parametrize(
    "damage", [cut, cut_in_half, flip_one_bit, flip_the_pickle, empty, other_text, not_a_mapping, Path.unlink]
)
def test_a_damaged_newest_is_named_and_the_one_before_it_taken(
    result: ResultDirectory, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointer = Checkpointer(result, keep=3)
    for step in (10, 20, 30):
        newest = save(checkpointer, step)
    damage(newest)
    loaded = checkpointer.load_latest()
    assert loaded is not None
    assert loaded["step"] == checkpointer.saved == 20
    assert float(loaded["weights"]["w"][7]) == 20.0
    said = capsys.readouterr().err
    if newest.exists():
        assert said.startswith(f"warning: {newest}: not a readable checkpoint (")
        assert said.endswith("); trying step-00000020.pt\n")
        assert said.count("\n") == 1
        assert "weights_only" not in said  # torch's own advice is to switch the protection off


def test_no_flipped_bit_becomes_a_weight(result: ResultDirectory) -> None:
    """Wherever the bit is: the file is refused, or what it holds is what was saved."""
    path = save(Checkpointer(result, keep=1), 7)
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            loaded = load_checkpoint(path)
        except InputError:
            refused += 1
        else:
            assert torch.equal(loaded["weights"]["w"], state(7)["weights"]["w"])
            assert (loaded["text"], loaded["numbers"], loaded["step"]) == ("x", [1, 2.5, None], 7)
    assert refused > 150


@pytest.mark.parametrize("older", [0, 1])
def test_a_checkpoint_of_another_result_is_refused_and_nothing_begun_anew(
    result: ResultDirectory, tmp_path: Path, older: int
) -> None:
    """Copied there from the run of another recipe."""
    other = locate(str(tmp_path), "pretrain", 1, Recipe(seed=1), ("seed",), {})
    if older:
        save(Checkpointer(result, keep=2), 10)
    copied = result.path / "checkpoints" / "step-00000020.pt"
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.write_bytes(save(Checkpointer(other, keep=2), 20).read_bytes())
    with pytest.raises(InputError) as error:
        latest_step(result)
    assert str(error.value) == (
        f"{copied}: a checkpoint of another result ({other.fingerprint}, this one is {result.fingerprint}), with "
        f"another recipe or other inputs; move it back there, or delete {copied.parent} to begin anew"
    )
    assert copied.exists()


@pytest.mark.parametrize(("found", "remedy"), [(FORMAT + 1, "newer"), (None, "older")])
def test_a_checkpoint_of_another_format_is_refused_and_nothing_begun_anew(
    result: ResultDirectory, found: int | None, remedy: str
) -> None:
    path = save(Checkpointer(result, keep=2), 10)
    torch.save({**load_checkpoint(path), "format": found}, path)
    with pytest.raises(InputError) as error:
        latest_step(result)
    assert str(error.value) == (
        f"{path}: a checkpoint of format {found}, and this soco reads {FORMAT}; go on with the {remedy} soco that "
        f"wrote it, or delete {path.parent} to begin anew"
    )


@pytest.mark.parametrize("keep_every", [0, 20])
def test_after_a_fall_back_the_damaged_one_does_not_displace_good_ones(
    result: ResultDirectory, keep_every: int
) -> None:
    checkpointer = Checkpointer(result, keep=2, keep_every=keep_every)
    for step in (10, 20):
        empty_later = save(checkpointer, step)
    empty(empty_later)
    assert latest_step(result) == 10
    save(checkpointer, 15)
    assert names(result) == ["latest", "step-00000010.pt", "step-00000015.pt"]


def test_all_damaged_starts_from_the_beginning_and_says_so(
    result: ResultDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointer = Checkpointer(result, keep=2)
    for step in (1, 2):
        empty(save(checkpointer, step))
    assert latest_step(result) is None
    assert capsys.readouterr().err.endswith("starting from the beginning\n")


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), MemoryError()])
def test_one_that_cannot_be_read_now_is_not_taken_for_damaged(
    error: Exception, result: ResultDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun anew, its later steps would be pruned as those of an attempt that fell back."""
    checkpointer = Checkpointer(result, keep=2)
    save(checkpointer, 5)

    def away(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", away)
        with pytest.raises(SocoError, match=r"step-00000005.pt: .*nothing is begun anew"):
            checkpointer.load_latest()
    assert latest_step(result) == 5


@pytest.mark.parametrize("text", ["step-00000010.pt", "", "step-00000099.pt", "../../x"])
def test_the_pointer_is_for_people_and_the_steps_decide(result: ResultDirectory, text: str) -> None:
    """A store that was away has an older pointer than the local disk has checkpoints."""
    checkpointer = Checkpointer(result, keep=5)
    for step in (10, 20):
        save(checkpointer, step)
    (result.path / "checkpoints" / "latest").write_text(text)
    assert latest_step(result) == 20


def test_a_writer_killed_in_the_middle_leaves_the_checkpoint_before(result: ResultDirectory, tmp_path: Path) -> None:
    save(Checkpointer(result, keep=2), 1)
    script = """
import os, signal, sys, torch
from soco_core.artifacts.result import locate
from soco_core.config import Recipe
from soco_core.engine.checkpoints import Checkpointer
def killed(state, file):
    file.write(b"PK half of it"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
torch.save = killed
Checkpointer(locate(sys.argv[1], "pretrain", 1, Recipe(), ("seed",), {}), 2).save(2, {})
"""
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    assert any(name.endswith(".tmp") for name in names(result))
    assert latest_step(result) == 1
    assert names(result) == ["latest", "step-00000001.pt"]


def test_a_program_that_ends_writes_its_checkpoint_first(tmp_path: Path, result: ResultDirectory) -> None:
    script = """
import sys, time
from soco_core.artifacts.result import locate
from soco_core.config import Recipe
from soco_core.engine import checkpoints
write = checkpoints.write_checkpoint
checkpoints.write_checkpoint = lambda *a: (time.sleep(0.5), write(*a))
checkpoints.Checkpointer(locate(sys.argv[1], "pretrain", 1, Recipe(), ("seed",), {}), 2).save(2, {})
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert latest_step(result) == 2


def test_a_disk_that_does_not_keep_what_was_written_is_found_before_the_file_has_its_name(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = Checkpointer(result, keep=2)
    save(checkpointer, 1)
    write = torch.save

    def forgetful(saved: Any, file: Any) -> None:
        write(saved, file)
        file.flush()
        size = file.tell()
        file.seek(size // 2)  # in the weights
        file.write(b"\xff")
        file.seek(size)

    monkeypatch.setattr(torch, "save", forgetful)
    checkpointer.save(2, state(2))
    checkpointer.wait()
    assert checkpointer.saved == 1
    assert checkpointer.trouble is not None
    assert checkpointer.trouble.errno == errno.EIO
    assert names(result) == ["latest", "step-00000001.pt"]
    monkeypatch.undo()
    save(checkpointer, 2)
    assert checkpointer.trouble is None


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_leaves_what_was_there_and_the_next_one_is_written(
    result: ResultDirectory, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    checkpointer = Checkpointer(result, keep=2)
    save(checkpointer, 1)
    original = checkpoint_file.atomic_file

    class Full:
        """A file on a disk with so many bytes left."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, room

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    @contextmanager
    def full(*arguments: Any) -> Iterator[Any]:
        with original(*arguments) as file:
            yield Full(file)

    monkeypatch.setattr(checkpoint_file, "atomic_file", full)
    checkpointer.save(2, state(2))
    checkpointer.wait()
    assert checkpointer.saved == 1
    assert checkpointer.failure is None
    assert checkpointer.trouble is not None
    assert checkpointer.trouble.errno == errno.ENOSPC
    assert names(result) == ["latest", "step-00000001.pt"]
    monkeypatch.undo()
    save(checkpointer, 3)
    assert names(result) == ["latest", "step-00000001.pt", "step-00000003.pt"]


def test_a_state_of_other_things_than_plain_ones_ends_the_training(
    result: ResultDirectory,
) -> None:
    """What cannot be pickled now cannot be later either."""
    checkpointer = Checkpointer(result, keep=2)
    checkpointer.save(1, {"x": threading.Lock()})
    checkpointer.wait()
    assert isinstance(checkpointer.failure, TypeError)
    assert names(result) == []


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "bare pickle"])
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "hostile.pt", tmp_path / "owned"
    attack = {"step": 1, "x": Hostile(f"touch '{mark}'")}
    if form == "zip":
        torch.save(attack, path)
    else:
        path.write_bytes(pickle.dumps(attack, protocol=2))
    with pytest.raises(InputError, match=rf"^{path}: not a readable checkpoint \(it holds \S*system, which is neither"):
        load_checkpoint(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(attack))  # the attack is a real one
    assert mark.exists()


def published(result: ResultDirectory) -> set[str]:
    return {name for name, _ in storage.list_objects(result.uri)}


def test_on_s3_checkpoints_and_pointer_are_published_and_old_ones_removed(s3: str) -> None:
    result = locate(s3, "pretrain", 1, Recipe(), ("seed",), {})
    checkpointer = Checkpointer(result, keep=2)
    for step in (1, 2, 3):
        save(checkpointer, step)
    checkpointer.uploads.settle()
    assert published(result) == {f"checkpoints/{name}" for name in ("latest", "step-00000002.pt", "step-00000003.pt")}
    assert storage.read_text(f"{result.uri}/checkpoints/latest") == "step-00000003.pt"


def test_a_store_that_is_away_holds_nothing_up_and_gets_it_all_later_in_order(faulty_s3: FaultyStore) -> None:
    """Journals before their checkpoint, the pointer after it, and nothing is removed before that."""
    result = locate(faulty_s3.uri, "pretrain", 1, Recipe(), ("seed",), {})
    checkpointer = Checkpointer(result, keep=2)
    journal = result.path / "metrics.jsonl"
    storage.write_text(journal, "1\n")
    checkpointer.save(1, state(1), journal)
    checkpointer.wait()
    checkpointer.uploads.settle()
    faulty_s3.fail("$", 403, times=-1, method="PUT")
    for step in (2, 3, 4):
        storage.write_text(journal, f"{step}\n")
        checkpointer.save(step, state(step), journal)
    checkpointer.wait()
    checkpointer.uploads.settle()
    assert isinstance(checkpointer.uploads.trouble, InputError)
    assert "\n" not in str(checkpointer.uploads.trouble)
    assert checkpointer.uploads.waiting
    assert checkpointer.uploads.failure is None
    assert names(result) == ["latest", "step-00000003.pt", "step-00000004.pt"]
    assert published(result) == {"metrics.jsonl", "checkpoints/latest", "checkpoints/step-00000001.pt"}

    faulty_s3.faults.clear()
    faulty_s3.requests.clear()
    checkpointer.uploads.settle()
    assert checkpointer.uploads.trouble is None
    assert not checkpointer.uploads.waiting
    sent = [request.key.rsplit("/", 1)[-1] for request in faulty_s3.requests if request.method in {"PUT", "DELETE"}]
    expected = ["metrics.jsonl", "step-00000003.pt", "step-00000004.pt", "latest"]
    assert sent[:4] == expected
    assert set(sent[4:]) == {"step-00000001.pt", "step-00000002.pt"}
    assert storage.read_text(f"{result.uri}/metrics.jsonl") == "4\n"
    assert storage.read_text(f"{result.uri}/checkpoints/latest") == "step-00000004.pt"


def test_an_old_one_that_cannot_be_removed_keeps_none_from_the_store(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = locate(f"{s3}/runs", "pretrain", 1, Recipe(), ("seed",), {})
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("step-"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok)

    with writing(result, Recipe()):
        checkpoints = Checkpointer(result, 1)
        monkeypatch.setattr(Path, "unlink", refused)
        for step in (1, 2):
            checkpoints.save(step, {"x": torch.zeros(1)})
            checkpoints.wait()
        assert checkpoints.saved == 2
        assert isinstance(checkpoints.trouble, PermissionError)
        checkpoints.uploads.settle()
        checkpoints.uploads.close()
        assert storage.exists(f"{result.uri}/checkpoints/step-00000002.pt")
        assert not storage.exists(f"{result.uri}/checkpoints/step-00000001.pt")


def test_a_lost_lock_ends_the_training_and_nothing_is_sent(s3: str) -> None:
    with writing(locate(s3, "pretrain", 1, Recipe(), ("seed",), {}), Recipe()) as result:
        storage.delete(f"{result.uri}/.lock")
        checkpointer = Checkpointer(result, keep=2)
        save(checkpointer, 1)
        checkpointer.uploads.settle()
    assert isinstance(checkpointer.uploads.failure, ResultLockedError)
    assert not any("checkpoints" in name for name in published(result))

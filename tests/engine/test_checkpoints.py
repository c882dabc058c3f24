"""Checkpoints that are whole, damaged, hostile, or of another attempt."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.config import Recipe
from soco_core.engine.checkpoints import Checkpointer, load_checkpoint
from soco_core.errors import InputError


@pytest.fixture
def result(tmp_path: Path) -> ResultDirectory:
    return locate(str(tmp_path), "pretrain", 1, Recipe(), ("seed",), {})


def state(step: int) -> dict[str, Any]:
    return {"weights": {"w": torch.full((1000,), float(step))}, "text": "x", "numbers": [1, 2.5, None]}


def names(result: ResultDirectory) -> list[str]:
    return sorted(path.name for path in (result.path / "checkpoints").iterdir())


def test_a_state_comes_back_as_it_was(result: ResultDirectory) -> None:
    saved = {**state(3), "optimizer": OrderedDict(momentum=torch.rand(3).half()), "random": torch.get_rng_state()}
    path = Checkpointer(result, keep=2).save(3, saved)
    assert path.name == "step-00000003.pt"
    loaded = Checkpointer(result, keep=2).load_latest()
    assert loaded is not None
    assert loaded["step"] == 3
    assert loaded["text"] == "x"
    assert loaded["numbers"] == [1, 2.5, None]
    assert torch.equal(loaded["weights"]["w"], saved["weights"]["w"])
    assert torch.equal(loaded["optimizer"]["momentum"], saved["optimizer"]["momentum"])
    assert torch.equal(loaded["random"], saved["random"])


def test_the_step_that_is_saved_is_the_one_given(result: ResultDirectory) -> None:
    assert load_checkpoint(Checkpointer(result, keep=1).save(5, {"step": 4}))["step"] == 5


def test_nothing_saved_is_none(result: ResultDirectory) -> None:
    assert Checkpointer(result, keep=2).load_latest() is None


def test_the_newest_are_kept_and_pointed_to(result: ResultDirectory) -> None:
    for step in (9, 10, 100):
        Checkpointer(result, keep=2).save(step, state(step))
    assert names(result) == ["latest", "step-00000010.pt", "step-00000100.pt"]
    assert (result.path / "checkpoints" / "latest").read_text() == "step-00000100.pt"


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
        checkpointer.save(step, state(step))
    newest = result.path / "checkpoints" / "step-00000030.pt"
    damage(newest)
    loaded = checkpointer.load_latest()
    assert loaded is not None
    assert loaded["step"] == 20
    assert float(loaded["weights"]["w"][7]) == 20.0
    said = capsys.readouterr().err
    if newest.exists():
        assert said.startswith(f"warning: {newest}: not a readable checkpoint (")
        assert said.endswith("); trying step-00000020.pt\n")
        assert said.count("\n") == 1
        assert "weights_only" not in said  # torch's own advice is to switch the protection off


def test_after_a_fall_back_the_damaged_one_does_not_displace_good_ones(result: ResultDirectory) -> None:
    checkpointer = Checkpointer(result, keep=2)
    for step in (10, 20):
        checkpointer.save(step, state(step))
    empty(result.path / "checkpoints" / "step-00000020.pt")
    loaded = checkpointer.load_latest()
    assert loaded is not None
    assert loaded["step"] == 10
    checkpointer.save(15, state(15))
    assert names(result) == ["latest", "step-00000010.pt", "step-00000015.pt"]


def test_all_damaged_starts_from_the_beginning_and_says_so(
    result: ResultDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointer = Checkpointer(result, keep=2)
    for step in (1, 2):
        empty(checkpointer.save(step, state(step)))
    assert checkpointer.load_latest() is None
    assert capsys.readouterr().err.endswith("starting from the beginning\n")


def test_the_pointer_decides_which_is_newest(result: ResultDirectory) -> None:
    checkpointer = Checkpointer(result, keep=5)
    for step in (10, 20):
        checkpointer.save(step, state(step))
    pointer = result.path / "checkpoints" / "latest"
    for text, step in {"step-00000010.pt": 10, "": 20, "step-00000099.pt": 20, "../../x": 20}.items():
        pointer.write_text(text)
        loaded = checkpointer.load_latest()
        assert loaded is not None
        assert loaded["step"] == step
    pointer.unlink()
    loaded = checkpointer.load_latest()
    assert loaded is not None
    assert loaded["step"] == 20


def test_a_writer_killed_in_the_middle_leaves_the_checkpoint_before(result: ResultDirectory, tmp_path: Path) -> None:
    Checkpointer(result, keep=2).save(1, state(1))
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
    loaded = Checkpointer(result, keep=2).load_latest()
    assert loaded is not None
    assert loaded["step"] == 1


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


def test_on_s3_checkpoints_and_pointer_are_published_and_old_ones_removed(s3: str) -> None:
    result = locate(s3, "pretrain", 1, Recipe(), ("seed",), {})
    for step in (1, 2, 3):
        Checkpointer(result, keep=2).save(step, state(step))
    found = {name for name, _ in storage.list_objects(f"{result.uri}/checkpoints")}
    assert found == {"latest", "step-00000002.pt", "step-00000003.pt"}
    assert storage.read_text(f"{result.uri}/checkpoints/latest") == "step-00000003.pt"

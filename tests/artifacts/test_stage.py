"""The frame of every stage: computed once, gone on with, and cheap when it is done."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.errors import InterruptedStageError, ResultLockedError, SocoError
from soco_core.tracking import Tracker


class Counting:
    """A stage of three parts that fails after `parts` of them."""

    def __init__(self, parts: int = 3) -> None:
        self.parts = parts
        self.computed: list[int] = []

    def __call__(self, result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        for part in range(3):
            path = result.path / f"part{part}"
            if path.exists():
                continue
            if part == self.parts:
                raise InterruptedStageError("stopped")
            self.computed.append(part)
            storage.write_text(path, "x")
            result.publish(path)
        return {"parts": 3}


def find(output: str | Path) -> ResultDirectory:
    return locate(str(output), "demo", 1, Recipe(), ("seed",), {})


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path)


def test_it_is_computed_once(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    compute = Counting()
    first = complete(find(output), Recipe(), None, compute)
    second = complete(find(output), Recipe(), None, compute)
    assert compute.computed == [0, 1, 2]
    assert first.summary == second.summary == {"parts": 3}
    assert "demo: already done, nothing to compute" in capsys.readouterr().err


def test_an_interrupted_stage_goes_on_from_its_part(output: str) -> None:
    with pytest.raises(InterruptedStageError):
        complete(find(output), Recipe(), None, Counting(parts=2))
    compute = Counting()
    complete(find(output), Recipe(), None, compute)
    assert compute.computed == [2]


def test_a_second_writer_computes_nothing(output: str) -> None:
    inner = Counting()

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        with pytest.raises(ResultLockedError):
            complete(find(output), Recipe(), None, inner)
        return {}

    complete(find(output), Recipe(), None, compute)
    assert inner.computed == []


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    def plain(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hidden(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        with open("/dev/full", "wb") as full:
            torch.save({"x": torch.zeros(100_000)}, full)  # raises a RuntimeError of its own
        return {}

    for compute in (plain, hidden):
        with pytest.raises(SocoError, match=rf"^demo: no space is left for {find(tmp_path).path}; [^\n]*$"):
            complete(find(tmp_path), Recipe(), None, compute)
    assert find(tmp_path).done is None


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        raise OSError(errno.ENOENT, "no such file")

    with pytest.raises(FileNotFoundError):
        complete(find(tmp_path), Recipe(), None, compute)


def test_a_stage_that_is_done_imports_nothing_heavy(tmp_path: Path) -> None:
    complete(find(tmp_path), Recipe(), None, Counting())
    script = """
import sys
from soco_core.artifacts.result import locate
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
complete(locate(sys.argv[1], "demo", 1, Recipe(), ("seed",), {}), Recipe(), None, None)
heavy = {"torch", "torchvision", "cv2", "mlflow", "kfp", "matplotlib", "pyarrow", "boto3", "numpy", "pandas", "rich"}
print(*sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
    assert "already done" in done.stderr

"""Images to search in, and the stage in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from soco_core.artifacts.proposals import ProposalRow
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.proposals.workers import Workers
from soco_core.recipes import parse_recipe

Scene = Callable[[int, int, int], npt.NDArray[np.uint8]]
MakeImages = Callable[..., Path]


def draw_scene(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Textured rectangles on a textured ground: something to find for selective search."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(40, 216, 3), np.int64)
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 6 + 1, width // 2 + 2), rng.integers(height // 6 + 1, height // 2 + 2)
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Write a folder of `count` scenes and return it."""

    def make(count: int, width: int = 72, height: int = 54) -> Path:
        folder = tmp_path / "images"
        for k in range(count):
            path = folder / f"{k % 3}" / f"{k:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_scene(k, width, height)).save(path)
        return folder

    return make


@pytest.fixture
def recipe() -> Recipe:
    """The paper's parameters, in this process."""
    return parse_recipe("runtime: {search_workers: 0}")


@pytest.fixture
def scene() -> Scene:
    """Draw a scene: (seed, width, height) -> uint8 RGB [height, width, 3]."""
    return draw_scene


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that were searched for this process."""
    ids: list[str] = []
    original = Workers.rows

    def rows(self: Workers, wanted: Sequence[str]) -> Iterator[ProposalRow]:
        for row in original(self, wanted):
            ids.append(row.id)
            yield row

    monkeypatch.setattr(Workers, "rows", rows)
    return ids


def files(result: ResultDirectory) -> dict[str, bytes]:
    """What the result holds, but for the recipe, which states the number of workers."""
    return {
        name: (result.path / name).read_bytes()
        for name in json.loads((result.path / "done.json").read_text())["files"]
        if name != "config.yaml"
    }


def names_of(images: Path) -> list[str]:
    """The ids of a folder that :func:`make_images` wrote, in their order."""
    return sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))


def start(arguments: Sequence[str | Path], said: Path) -> subprocess.Popen[bytes]:
    """Start `soco propose` at the paper's parameters in a session of its own; all that it says goes to the file `said`.

    Not to a pipe: a worker that outlived it would keep that open, and the test waiting.
    """
    soco = Path(sys.executable).with_name("soco")
    # The named recipe identifies a set by sizes only, other than the fixture `recipe`.
    command = [str(soco), "propose", "--set", "images.fingerprint=contents", *map(str, arguments)]
    with said.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def wait_for_lines(output: Path, lines: int) -> Path:
    """Wait until a journal has some lines; return it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in output.glob("proposals/*/shards/*.jsonl"):
            if journal.read_bytes().count(b"\n") >= lines:
                return journal
        time.sleep(0.02)
    raise AssertionError("no image was finished in time")


def wait_for_end_of_group(group: int) -> None:
    """Wait until the workers of a process that is gone have ended by themselves."""
    deadline = time.monotonic() + 20
    while left := _processes_of_group(group):
        if time.monotonic() > deadline:
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise AssertionError("a worker outlived its parent")
        time.sleep(0.02)


def _processes_of_group(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(entry.name))
    return found

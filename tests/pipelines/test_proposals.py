"""The proposals' part of a pipeline with its real stages, through kfp.local, on a few small images."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("kfp")
pytest.importorskip("cv2")
from soco_core.proposals.stage import propose
from soco_core.recipes import parse_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS = 3
IMAGES = 24
RECIPE = """
images: {layout: folder}
proposals: {engine: opencv, scale: 100}
runtime: {search_workers: 0}
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of coloured patches; each takes a part of a second."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        random = np.random.default_rng(number)
        patches = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        pixels = np.kron(patches, np.ones((24, 24, 1), dtype=np.uint8)) // 2 + random.integers(
            0, 96, (144, 192, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The result without a pipeline and without shards."""
    return content(propose(parse_recipe(RECIPE), images=str(images), output=str(tmp_path_factory.mktemp("one"))).path)


@pytest.fixture
def start(tmp_path: Path, images: Path) -> Start:
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def begin(parallel: int, retries: int) -> subprocess.Popen[str]:
        script = REPOSITORY / "tests" / "pipelines" / "only_proposals.py"
        numbers = [str(number) for number in (SHARDS, parallel, retries)]
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "out"), str(images), "recipe.yaml", *numbers],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
        )

    return begin


def content(result: Path) -> dict[str, bytes]:
    """The files of a result that hold its rows and boxes."""
    return {str(path.relative_to(result)): path.read_bytes() for path in result.rglob("*.*") if path.suffix in FORMATS}


FORMATS = {".parquet", ".arrow"}


def test_shards_run_and_are_merged(start: Start, tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    process = start(parallel=1, retries=0)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + (tmp_path / "run.log").read_text()
    result = Path(out.strip())
    assert json.loads((result / "manifest.json").read_text())["images"] == {"good": IMAGES, "bad": 0}
    assert len(unbroken) >= 2
    assert content(result) == unbroken
    # One at a time: the next begins when the one before is done.
    events = re.findall(r"^\[propose (\d)/3\] (started|done)", err, re.MULTILINE)
    assert [kind for _, kind in events] == ["started", "done"] * SHARDS
    assert {index for index, _ in events} == {"1", "2", "3"}
    assert "proposals: " not in err


def test_a_killed_shard_is_tried_again_and_goes_on(start: Start, tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    process = start(parallel=0, retries=2)
    kept = kill_shard(tmp_path, process)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + (tmp_path / "run.log").read_text()
    assert content(Path(out.strip())) == unbroken
    assert "[propose 2/3] started again (1 of 2 retries)" in err
    again = err.partition("[propose 2/3] started again")[2]
    progress = re.search(r"^\[propose 2/3\] (\d+)/8 images", again, re.MULTILINE)
    assert progress is not None
    assert int(progress[1]) > kept
    assert err.count("started again") == 1


def kill_shard(folder: Path, process: subprocess.Popen[str]) -> int:
    """Kill the second shard while it works; return how many images it had certainly kept."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        for journal in folder.glob("out/proposals/*/shards/00001-of-00003.jsonl"):
            kept = journal.read_bytes().count(b"\n")
            if kept >= 2:
                started = re.findall(r"\[propose 2/3\] started \(process (\d+)\)", (folder / "run.log").read_text())
                os.kill(int(started[0]), signal.SIGKILL)
                return kept
        time.sleep(0.005)
    pytest.fail("the second shard did not come to its second image")

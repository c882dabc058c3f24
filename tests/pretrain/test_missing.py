"""What is missing between the images and their proposals: boxes of an image, or an image of the proposals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from soco_core.artifacts.metrics import read_metrics
from tests.scenes import write_scenes

SOCO = Path(sys.executable).with_name("soco")
IMAGES = 8
SMALL = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=8",
    "model.head_fc_size=16",
    "model.hidden_size=16",
    "model.embedding_size=8",
    "pretrain.epochs=2",
    "pretrain.batch_size=4",
    "runtime.workers=0",
    "runtime.checkpoint_steps=1000",
]


def soco(stage: str, *arguments: str, sets: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    overrides = [part for item in (*SMALL, *sets) for part in ("--set", item)]
    program = [str(SOCO), stage, "--recipe", "demo", *overrides, *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "images", IMAGES)
    return tmp_path / "images"


def test_an_image_without_boxes_is_said_and_trained_on_as_a_whole(images: Path, tmp_path: Path) -> None:
    boxes = {f"{number:02d}": [[20, 20, 60, 50], [50, 30, 70, 60]] for number in range(IMAGES) if number != 3}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    sets = ("proposals.engine=import", f"proposals.boxes_file={tmp_path / 'boxes.json'}")
    found = soco("propose", "--images", str(images), "--output", str(tmp_path), sets=sets)
    assert found.returncode == 0, found.stderr
    assert f"1 of {IMAGES} images have no box in {tmp_path / 'boxes.json'}" in found.stderr
    done = soco("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    entries = read_metrics(Path(done.stdout.strip()) / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [0, 1, 2, 3]
    assert all(np.isfinite(entry["loss"]) for entry in entries)


def test_an_image_that_is_gone_stops_the_run_before_its_step_and_it_goes_on_once_it_is_back(
    images: Path, tmp_path: Path
) -> None:
    found = soco("propose", "--images", str(images), "--output", str(tmp_path))
    assert found.returncode == 0, found.stderr
    pictured = {round(i * (IMAGES - 1) / 3) for i in range(4)}
    second = np.random.default_rng([0, 0]).permutation(IMAGES)[4:].tolist()
    image = images / f"{next(number for number in second if number not in pictured):02d}.png"
    kept = image.read_bytes()
    image.unlink()
    done = soco("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path))
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [done.stderr.splitlines()[-1]]
    assert str(image) in errors[0]
    (checkpoints,) = tmp_path.glob("pretrain/*/checkpoints")
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-00000001.pt"]

    image.write_bytes(kept)
    done = soco("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "pretrain: going on from step 1 of 4" in done.stderr
    assert len(read_metrics(Path(done.stdout.strip()) / "metrics.jsonl")) == 4

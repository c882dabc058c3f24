"""`soco pretrain` through its real command: whole, repeated, killed and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import ResultDirectory
from soco_core.artifacts.weights import load_canonical
from soco_core.config import RuntimeConfig
from soco_core.engine.checkpoint_file import load_checkpoint
from soco_core.models.soco import OnlineNetwork
from soco_core.pretrain.stage import otherwise_computed
from soco_core.recipes import load_recipe
from tests.scenes import write_scenes

SOCO = Path(sys.executable).with_name("soco")
SMALL = [
    "views.size=64",
    "views.small_size=32",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.epochs=6",
    "pretrain.batch_size=4",
    "runtime.workers=1",
    "runtime.checkpoint_steps=2",
]
STEPS = 12


def command(stage: str, *arguments: str, sets: list[str] | None = None) -> list[str]:
    overrides = [part for item in (sets or SMALL) for part in ("--set", item)]
    return [str(SOCO), stage, "--recipe", "demo", *overrides, *arguments]


def run(stage: str, *arguments: str, sets: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(stage, *arguments, sets=sets), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("pretrain")
    write_scenes(root / "images", 8)
    done = run("propose", "--images", str(root / "images"), "--output", str(root / "runs"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def unbroken(proposals: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken")
    done = run("pretrain", "--proposals", proposals, "--output", str(output))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for metrics in folder.glob("pretrain/*/metrics.jsonl"):
            # A checkpoint is written while the training goes on.
            if len(read_metrics(metrics)) > step and any(metrics.parent.glob("checkpoints/step-*.pt")):
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached")


def test_a_run_leaves_what_its_contract_says(unbroken: Path) -> None:
    entries = read_metrics(unbroken / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == list(range(STEPS))
    assert all(np.isfinite(entry["loss"]) and -8 <= entry["loss"] <= 8 for entry in entries)
    assert entries[-1]["loss"] < entries[0]["loss"]
    assert entries[0]["ema"] == pytest.approx(0.99)
    names = load_canonical(unbroken / "pretrained.safetensors")
    assert {name.split(".")[0] for name in names} == {"encoder", "neck", "head", "projector", "predictor"}
    for figure in ("views.png", "loss.png"):
        with Image.open(unbroken / "figures" / figure) as picture:
            assert picture.width > 300
    done = json.loads((unbroken / "done.json").read_text())
    assert done["summary"]["steps"] == STEPS
    assert "metrics.jsonl" in done["files"]
    kept = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert kept == ["latest", f"step-{STEPS - 2:08d}.pt", f"step-{STEPS:08d}.pt"]


def test_the_same_command_again_computes_nothing(unbroken: Path, proposals: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    done = run("pretrain", "--proposals", proposals, "--output", str(unbroken.parents[1]))
    assert done.stdout.strip() == str(unbroken)
    assert "already done" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGKILL, False),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        (signal.SIGTERM, True),
    ],
)
def test_stopped_and_gone_on_with_every_loss_is_the_unbroken_runs(
    number: signal.Signals, group: bool, unbroken: Path, proposals: str, tmp_path: Path
) -> None:
    arguments = ("--proposals", proposals, "--output", str(tmp_path))
    process = subprocess.Popen(
        command("pretrain", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_step(tmp_path, 2, process)
    # A batch system or a terminal signals the loader's workers, too.
    (os.killpg if group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert re.search(r"stopped by SIGTERM; the state after step \d+ of .* is saved", said.splitlines()[-1])
    assert not list(tmp_path.glob("pretrain/*/done.json"))

    done = run("pretrain", *arguments)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    result = Path(done.stdout.strip())
    expected = read_metrics(unbroken / "metrics.jsonl")
    assert read_metrics(result / "metrics.jsonl") == expected
    ours, theirs = (
        load_canonical(result / "pretrained.safetensors"),
        load_canonical(unbroken / "pretrained.safetensors"),
    )
    assert all(bool((ours[key] == theirs[key]).all()) for key in theirs)


def test_a_reused_result_says_what_its_name_does_not(proposals: str, tmp_path: Path) -> None:
    """Computed in passes, or in another precision than the one asked for."""
    few = [*SMALL, "pretrain.epochs=2"]

    def warnings(*sets: str) -> list[str]:
        done = run("pretrain", "--proposals", proposals, "--output", str(tmp_path), sets=[*few, *sets])
        assert done.returncode == 0, done.stderr
        assert "already done" in done.stderr
        return [line for line in done.stderr.splitlines() if line.startswith("warning: ")]

    sets = [*few, "runtime.images_per_process=2"]
    first = run("pretrain", "--proposals", proposals, "--output", str(tmp_path), sets=sets)
    assert first.returncode == 0, first.stderr
    (warning,) = warnings()
    assert "in 2 passes of each step: batch norm saw 2 images at once, not the 4 of the batch" in warning
    assert f"remove {first.stdout.strip()}" in warning
    assert warnings("runtime.precision=fp32") == [warning]
    passes, precision = warnings("runtime.precision=bf16")
    assert passes == warning
    assert "in fp32, not in runtime.precision (bf16)" in precision


def whole(**summary: Any) -> ResultDirectory:
    return ResultDirectory("/runs/it", Path("/runs/it"), "f", "pretrain", {}, {"summary": summary})


def test_what_a_reused_result_is_asked_for() -> None:
    """One of 2048 images on 16 processes, in whole batches."""
    how = {"batch_size": 2048, "images_per_process": 128, "accumulation_steps": 1, "precision": "fp16"}
    asked = RuntimeConfig(images_per_process=64)
    (line,) = otherwise_computed(whole(**how), asked, 16)
    assert "whole batches of 2048 images, not in passes as runtime.images_per_process (64) asks for" in line
    # Another 16 processes would hold no more than asked for; and a pod of its own that only looks computes nothing.
    assert otherwise_computed(whole(**how), asked, 32) == []
    assert otherwise_computed(whole(**how), RuntimeConfig(images_per_process=128), 1) == []
    assert otherwise_computed(whole(**how), RuntimeConfig(precision="fp16"), 16) == []
    first = {"accumulation_steps": 4, "precision": "bf16", "first_step": 0}
    mixed = whole(**how, attempts=[first, {**how, "first_step": 9}])
    passes, precision = otherwise_computed(mixed, RuntimeConfig(precision="fp16"), 16)
    assert "in 4 passes of each step: batch norm saw 512 images at once" in passes
    assert "in bf16, then fp16, not in runtime.precision (fp16)" in precision
    assert otherwise_computed(whole(steps=60), asked, 1) == []


def test_workers_change_nothing(unbroken: Path, proposals: str, tmp_path: Path) -> None:
    sets = [*SMALL, "runtime.workers=0"]
    done = run("pretrain", "--proposals", proposals, "--output", str(tmp_path), sets=sets)
    assert read_metrics(Path(done.stdout.strip()) / "metrics.jsonl") == read_metrics(unbroken / "metrics.jsonl")


def test_a_set_smaller_than_the_batch_is_said_and_trained_on(proposals: str, tmp_path: Path) -> None:
    sets = [*SMALL, "pretrain.batch_size=64", "pretrain.epochs=2"]
    done = run("pretrain", "--proposals", proposals, "--output", str(tmp_path), sets=sets)
    assert done.returncode == 0, done.stderr
    assert "only 8 usable images" in done.stderr
    summary = json.loads((Path(done.stdout.strip()) / "done.json").read_text())["summary"]
    assert (summary["batch_size"], summary["steps"]) == (8, 2)


def test_other_images_than_the_proposals_are_refused(proposals: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "others", 3)
    done = run("pretrain", "--proposals", proposals, "--images", str(tmp_path / "others"), "--output", str(tmp_path))
    assert done.returncode == 2
    assert "not the images" in done.stderr.strip().splitlines()[-1]


def test_an_image_that_vanished_is_named_in_one_line(tmp_path: Path) -> None:
    write_scenes(tmp_path / "images", 4)
    found = run("propose", "--images", str(tmp_path / "images"), "--output", str(tmp_path))
    (tmp_path / "images" / "02.png").write_bytes(b"not an image")
    done = run("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "02.png" in last


def test_an_image_of_another_size_than_before_is_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "images", 4)
    found = run("propose", "--images", str(tmp_path / "images"), "--output", str(tmp_path))
    Image.new("RGB", (99, 77)).save(tmp_path / "images" / "01.png")
    done = run("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "01.png: 99x77 pixels, but 150x120" in last


def test_a_single_image_is_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "images", 1)
    found = run("propose", "--images", str(tmp_path / "images"), "--output", str(tmp_path))
    done = run("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path))
    assert done.returncode == 2
    assert "only one usable image" in done.stderr.strip().splitlines()[-1]


def test_images_are_recognised_by_the_mode_that_named_them(proposals: str, tmp_path: Path) -> None:
    images = str(Path(proposals).parents[2] / "images")
    sets = [*SMALL, "images.fingerprint=sizes", "pretrain.epochs=2"]
    done = run("pretrain", "--proposals", proposals, "--images", images, "--output", str(tmp_path), sets=sets)
    assert done.returncode == 0, done.stderr


def test_each_step_applies_the_scheduled_coefficient_and_rate(proposals: str, tmp_path: Path) -> None:
    """From the checkpoints of two steps: what the target and the weights of the online network became."""
    sets = [*SMALL, "pretrain.epochs=2", "runtime.checkpoint_steps=1", "runtime.checkpoints_kept=9"]
    done = run("pretrain", "--proposals", proposals, "--output", str(tmp_path), sets=sets)
    folder = Path(done.stdout.strip())
    entries = read_metrics(folder / "metrics.jsonl")
    states = {step: load_checkpoint(folder / "checkpoints" / f"step-{step:08d}.pt") for step in (2, 3)}
    before, after = states[2]["networks"], states[3]["networks"]
    momentum = {i: state["momentum"] for i, state in states[3]["optimizer"]["state"].items()}
    # The optimiser numbers its tensors group by group: weights first, then the one-dimensional ones.
    names = [name for name, _ in OnlineNetwork(load_recipe("demo", sets).model).named_parameters()]
    shapes = {name: before[f"online.{name}"].ndim for name in names}
    numbered = [n for n in names if shapes[n] > 1] + [n for n in names if shapes[n] <= 1]
    assert entries[2]["learning_rate"] > 0.01
    for number, name in enumerate(numbered):
        old = before[f"online.{name}"]
        expected = old - entries[2]["learning_rate"] * momentum[number]
        torch.testing.assert_close(after[f"online.{name}"], expected, atol=1e-6, rtol=1e-5)
        if f"target.{name}" in before:
            moved = torch.lerp(before[f"target.{name}"], old, 1 - entries[2]["ema"])
            torch.testing.assert_close(after[f"target.{name}"], moved, atol=1e-6, rtol=1e-5)


def test_nasty_files_do_not_stop_the_run(shared_data: Path, tmp_path: Path) -> None:
    index = json.loads((shared_data / "nasty" / "index.json").read_text())
    undecodable = {entry["file"] for entry in index if entry["pil_load"] != "ok"}
    found = run("propose", "--images", str(shared_data / "nasty"), "--output", str(tmp_path))
    assert found.returncode == 0, found.stderr
    manifest = json.loads((Path(found.stdout.strip()) / "manifest.json").read_text())
    assert {bad["id"] for bad in manifest["bad_images"]} == undecodable
    assert all(bad["reason"] for bad in manifest["bad_images"])
    sets = [*SMALL, "pretrain.epochs=2"]
    done = run("pretrain", "--proposals", found.stdout.strip(), "--output", str(tmp_path), sets=sets)
    assert done.returncode == 0, done.stderr
    summary = json.loads((Path(done.stdout.strip()) / "done.json").read_text())["summary"]
    assert summary["images"] == len(index) - len(undecodable)

"""The trainer in this process: accumulation, divergence and its dump, collapse, steps read some at a time."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import ResultDirectory, open_result
from soco_core.engine.checkpoint_file import load_checkpoint
from soco_core.engine.distributed import Processes
from soco_core.errors import InterruptedStageError, SocoError
from soco_core.images import open_source
from soco_core.models.soco import ViewBatch
from soco_core.pretrain import trainer as trainer_module
from soco_core.pretrain.data import ViewDataset
from soco_core.pretrain.figures import draw_curves
from soco_core.pretrain.trainer import Trainer
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from soco_core.tracking import Tracker
from soco_core.views.batch import prepare_views
from tests.scenes import write_scenes

SMALL = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=8",
    "model.head_fc_size=16",
    "model.hidden_size=16",
    "model.embedding_size=8",
    "pretrain.epochs=3",
    "pretrain.batch_size=8",
    "pretrain.warmup_epochs=0.0",
    "pretrain.base_learning_rate=0.5",
    "runtime.workers=0",
    "runtime.search_workers=0",
]

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trainer")
    write_scenes(folder / "images", 16, (110, 90), (45, 40))
    return propose(load_recipe("demo", SMALL), images=str(folder / "images"), output=str(folder)).uri


@pytest.fixture
def make(proposals: str, tmp_path: Path) -> MakeTrainer:
    def make(*sets: str, folder: str = "result") -> Trainer:
        recipe = load_recipe("demo", [*SMALL, *sets])
        boxes = Proposals.open(open_result(proposals))
        result = ResultDirectory(str(tmp_path / folder), tmp_path / folder, "f", "pretrain", {})
        dataset = ViewDataset(recipe, boxes, open_source(boxes.image_set))
        return Trainer(recipe, dataset, Processes("cpu"), result, Tracker(None, result.path))

    return make


def entries(trainer: Trainer) -> list[dict[str, Any]]:
    assert trainer.result is not None
    return read_metrics(trainer.result.path / "metrics.jsonl")


def poison(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Make the pixels of one image in the given call (from 0) not a number."""
    calls = []

    def prepare(*arguments: Any) -> list[ViewBatch]:
        views = prepare_views(*arguments)
        calls.append(None)
        if len(calls) == call + 1:
            views[1].images[0] = math.nan
        return views

    monkeypatch.setattr(trainer_module, "prepare_views", prepare)


def test_passes_add_up_to_the_gradient_of_the_whole_batch(make: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the batch norm's running statistics, so that the passes are independent; three of 3, 3 and 2 images."""

    def gradients(*sets: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        trainer = make("pretrain.epochs=1", "pretrain.batch_size=8", *sets, folder=f"result{len(sets)}")
        trainer.networks.double()
        monkeypatch.setattr(trainer.networks, "train", lambda: nn.Module.train(trainer.networks, False))
        kept: dict[str, torch.Tensor] = {}

        def keep() -> None:
            if not kept:
                kept.update({n: p.grad.clone() for n, p in trainer.networks.online.named_parameters()})  # type: ignore[union-attr]

        monkeypatch.setattr(trainer.optimizer, "step", keep)
        monkeypatch.setattr(trainer_module, "prepare_views", double)
        trainer.train()
        return kept, entries(trainer)[0]

    def double(*arguments: Any) -> list[ViewBatch]:
        return [ViewBatch(v.images.double(), v.boxes.double(), v.ids) for v in prepare_views(*arguments)]

    whole, values = gradients()
    parts, values_of_parts = gradients("runtime.images_per_process=3")
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-6, atol=1e-9)
    assert values_of_parts == pytest.approx(values, rel=1e-6)


def test_a_signal_between_two_passes_leaves_the_state_of_the_step_before(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("pretrain.batch_size=8", "runtime.images_per_process=3")
    unbroken = make(*sets, folder="unbroken")
    unbroken.train()
    calls: list[int] = []

    def prepare(*arguments: Any) -> list[ViewBatch]:
        calls.append(len(calls))
        if len(calls) == 5:  # the second of three passes of the second step
            os.kill(os.getpid(), signal.SIGTERM)
        return prepare_views(*arguments)

    monkeypatch.setattr(trainer_module, "prepare_views", prepare)
    stopped = make(*sets)
    with pytest.raises(InterruptedStageError, match=r"the state after step 1 of \d+ is saved"):
        stopped.train()
    assert len(calls) == 5
    again = make(*sets)
    again.train()
    assert entries(again) == entries(unbroken)
    theirs = unbroken.networks.state_dict()
    assert all(bool((value == theirs[key]).all()) for key, value in again.networks.state_dict().items())


def test_a_poisoned_image_stops_the_run_with_all_that_is_needed_to_find_it(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poison(monkeypatch, 3)
    trainer = make("runtime.checkpoint_steps=1")
    with pytest.raises(SocoError, match="diverged at step 3: the loss is nan") as error:
        trainer.train()
    folder = tmp_path / "result" / "diverged" / "step-3"
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    report = json.loads((folder / "report.json").read_text())
    order = np.random.default_rng([0, 1]).permutation(16)[8:]
    assert report["epoch"] == 1
    assert report["images"] == [[f"{number:02d}.png" for number in order]]
    assert report["loss"] == report["loss_1_to_2"] == "nan"
    assert report["learning_rate"] == pytest.approx(float(trainer.learning_rate[3]))
    assert len(report["largest_gradients"]) == 20
    assert report["largest_gradients"][0]["gradient_norm"] == "nan"
    assert {"tensor", "shape", "gradient_norm", "weight_norm"} == set(report["largest_gradients"][0])
    with Image.open(folder / "images.png") as picture:
        assert picture.width > 300
    # What is kept is from before it, and finite.
    assert [entry["step"] for entry in entries(trainer)] == [0, 1, 2]
    state = load_checkpoint(tmp_path / "result" / "checkpoints" / "step-00000003.pt")
    assert all(bool(tensor.isfinite().all()) for tensor in state["networks"].values())
    assert not (tmp_path / "result" / "checkpoints" / "step-00000004.pt").exists()


def test_steps_that_are_read_some_at_a_time_are_judged_and_written_one_by_one(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a GPU: what step 4 did is found after step 5, at the end of the epoch, before anything is saved."""
    often = make(folder="often")
    often.train()
    rarely = make(folder="rarely")
    rarely.read_steps = 4
    rarely.train()
    assert entries(rarely) == entries(often)
    assert len(read_metrics(tmp_path / "rarely" / "speed.jsonl")) == 6

    poison(monkeypatch, 4)
    poisoned = make("runtime.checkpoint_steps=3", folder="poisoned")
    poisoned.read_steps = 100
    with pytest.raises(SocoError, match="diverged at step 4"):
        poisoned.train()
    assert entries(poisoned) == entries(often)[:4]
    assert (tmp_path / "poisoned" / "checkpoints" / "latest").read_text().strip() == "step-00000004.pt"


def test_an_absurd_learning_rate_is_found(make: MakeTrainer) -> None:
    with pytest.raises(SocoError, match=r"diverged at step \d: the (loss|gradient norm) is (nan|inf)"):
        make("pretrain.base_learning_rate=1e30").train()


def test_a_loss_that_rises_again_is_found(make: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are torn out of what they had learnt."""
    trainer = make("pretrain.divergence_steps=2", "pretrain.epochs=12")
    step = trainer.optimizer.step
    done: list[None] = []

    def tear() -> None:
        step()
        done.append(None)
        if len(done) > 12:
            with torch.no_grad():
                for parameter in trainer.networks.online.parameters():
                    parameter.normal_()

    monkeypatch.setattr(trainer.optimizer, "step", tear)
    with pytest.raises(SocoError, match=r"diverged at step 1\d: the loss over the last 2 steps is") as error:
        trainer.train()
    assert "after -" in str(error.value)


def test_what_the_recipe_says_in_vain_is_said_first(make: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    make("views.fourth_size=40")
    assert capsys.readouterr().err == "warning: views.fourth_size (40) does nothing without views.fourth_view\n"


def test_a_collapse_is_warned_of_once_and_stops_nothing(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make("pretrain.epochs=6")

    def project(views: list[ViewBatch]) -> list[torch.Tensor]:
        return [torch.ones(*view.ids.shape, 8) for view in views]

    monkeypatch.setattr(trainer.networks.target, "forward", project)
    trainer.train()
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "collapsing at step 9: their spread is 0.000" in warning
    assert len(entries(trainer)) == 12


def test_a_run_that_goes_on_with_other_passes_says_so(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = make("pretrain.epochs=2", "runtime.checkpoint_steps=2", "runtime.checkpoints_kept=9")
    trainer.train()
    assert "attempts" not in trainer.summary(ResultDirectory("", tmp_path / "result", "", "", {}))
    result = ResultDirectory(str(tmp_path / "result"), tmp_path / "result", "f", "pretrain", {})
    for beyond in (3, 4):
        (tmp_path / "result" / "checkpoints" / f"step-0000000{beyond}.pt").unlink(missing_ok=True)
    again = make("pretrain.epochs=2", "runtime.images_per_process=4")
    again.train()
    summary = again.summary(result)
    assert summary["accumulation_steps"] == 2
    assert [(part["first_step"], part["accumulation_steps"]) for part in summary["attempts"]] == [(0, 1), (2, 2)]


def test_bf16_on_a_cpu_trains_with_losses_and_measurements_in_float32(make: MakeTrainer) -> None:
    trainer = make("runtime.precision=bf16")
    trainer.train()
    values = entries(trainer)
    reference = make(folder="fp32")
    reference.train()
    assert values[0]["loss"] != entries(reference)[0]["loss"]
    assert values[0]["loss"] == pytest.approx(entries(reference)[0]["loss"], abs=0.05)
    assert values[-1]["loss"] < values[0]["loss"]
    assert all(p.dtype == torch.float32 for p in trainer.networks.parameters())


def test_all_that_is_watched_is_drawn(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = make()
    trainer.train()
    assert set(entries(trainer)[0]) == {
        *("step", "loss", "loss_1_to_2", "loss_2_to_1", "loss_1_to_3", "loss_3_to_1", "learning_rate", "ema"),
        *("boxes_P2", "boxes_P3", "boxes_P4", "boxes_P5", "unusable_images", "embedding_std", "gradient_norm"),
    }
    speed = read_metrics(tmp_path / "result" / "speed.jsonl")
    assert [set(line) for line in speed] == [{"step", "seconds_per_step", "images_per_second", "data_wait"}] * 6
    draw_curves(tmp_path / "curves.png", tmp_path / "result")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000

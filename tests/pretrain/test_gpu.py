"""Training on a GPU in each precision, and going on there with the scaler's state."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import ResultDirectory, open_result
from soco_core.engine.checkpoint_file import load_checkpoint
from soco_core.engine.distributed import Processes
from soco_core.engine.precision import NATIVE_BF16
from soco_core.images import open_source
from soco_core.pretrain.data import ViewDataset
from soco_core.pretrain.trainer import Trainer
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from soco_core.tracking import Tracker
from tests.scenes import write_scenes

SMALL = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.epochs=10",
    "pretrain.batch_size=8",
    "pretrain.warmup_epochs=0.0",
    "pretrain.base_learning_rate=0.5",
    "runtime.workers=0",
    "runtime.search_workers=0",
    "runtime.checkpoint_steps=10",
    "runtime.checkpoints_kept=9",
]
STEPS, BROKEN = 20, 10

MakeTrainer = Callable[[str], Trainer]


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    """SOCO_REQUIRE_GPU makes its absence a failure."""
    if not torch.cuda.is_available():
        reason = "torch finds no GPU here"
        if os.environ.get("SOCO_REQUIRE_GPU"):
            pytest.fail(reason)
        pytest.skip(reason)
    return torch.device("cuda")


@pytest.fixture(scope="module")
def proposals(gpu: torch.device, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("gpu")
    write_scenes(folder / "images", 16, (110, 90), (45, 40))
    return propose(load_recipe("demo", SMALL), images=str(folder / "images"), output=str(folder)).uri


@pytest.fixture
def make(proposals: str, tmp_path: Path) -> MakeTrainer:
    def make(precision: str) -> Trainer:
        recipe = load_recipe("demo", [*SMALL, f"runtime.precision={precision}"])
        boxes = Proposals.open(open_result(proposals))
        result = ResultDirectory(str(tmp_path), tmp_path, "f", "pretrain", {})
        dataset = ViewDataset(recipe, boxes, open_source(boxes.image_set))
        return Trainer(recipe, dataset, Processes("cuda"), result, Tracker(None, tmp_path))

    return make


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_twenty_steps_and_going_on_after_ten(
    precision: str, gpu: torch.device, make: MakeTrainer, tmp_path: Path
) -> None:
    """Kernels that add in no fixed order let the runs differ a little; what is loaded is what was saved."""
    if precision == "bf16" and torch.cuda.get_device_capability(gpu) < NATIVE_BF16:
        pytest.skip("this GPU has no bf16 of its own")
    trainer = make(precision)
    trainer.train()
    whole = read_metrics(tmp_path / "metrics.jsonl")
    losses = [entry["loss"] for entry in whole]
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    assert all(np.isfinite(losses))
    assert {parameter.dtype for parameter in trainer.networks.parameters()} == {torch.float32}
    assert ("loss_scale" in whole[-1]) is (precision == "fp16")

    for checkpoint in (tmp_path / "checkpoints").glob("step-*.pt"):
        if checkpoint.name > f"step-{BROKEN:08d}.pt":
            checkpoint.unlink()
    state = load_checkpoint(tmp_path / "checkpoints" / f"step-{BROKEN:08d}.pt")
    saved = state["scaler"]
    assert bool(saved) is (precision == "fp16")
    loaded = make(precision)
    loaded.load_state_dict(state)
    assert loaded.precision.scaler.state_dict() == saved

    again = make(precision)
    again.train()
    gone_on = read_metrics(tmp_path / "metrics.jsonl")
    assert gone_on[:BROKEN] == whole[:BROKEN]
    assert [entry["step"] for entry in gone_on] == list(range(STEPS))
    np.testing.assert_allclose([entry["loss"] for entry in gone_on], losses, rtol=0, atol=0.3)
    # Ten further steps, skipped or not, are ten further marks in the scaler's memory.
    if precision == "fp16":
        assert again.precision.scaler.state_dict() != saved

"""Training in each precision, and going on with the scaler's state: on the CPU to the bit, and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

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
from soco_core.pretrain.figures import draw_curves
from soco_core.pretrain.trainer import Trainer
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from soco_core.tracking import Tracker
from tests.gpu import require_gpu
from tests.scenes import write_scenes

SMALL = [
    "views.size=48",
    "views.small_size=32",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.epochs=6",
    "pretrain.batch_size=8",
    "pretrain.warmup_epochs=0.0",
    "pretrain.base_learning_rate=0.5",
    "runtime.workers=0",
    "runtime.search_workers=0",
    "runtime.checkpoint_steps=6",
    "runtime.checkpoints_kept=9",
]
STEPS, BROKEN = 12, 6

MakeTrainer = Callable[[Literal["cpu", "cuda"], str], Trainer]


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("precision")
    write_scenes(folder / "images", 16, (110, 90), (45, 40))
    return propose(load_recipe("demo", SMALL), images=str(folder / "images"), output=str(folder)).uri


@pytest.fixture
def gpu() -> torch.device:
    return require_gpu()


@pytest.fixture
def make(proposals: str, tmp_path: Path) -> MakeTrainer:
    def make(device: Literal["cpu", "cuda"], precision: str) -> Trainer:
        recipe = load_recipe("demo", [*SMALL, f"runtime.precision={precision}"])
        boxes = Proposals.open(open_result(proposals))
        result = ResultDirectory(str(tmp_path), tmp_path, "f", "pretrain", {})
        dataset = ViewDataset(recipe, boxes, open_source(boxes.image_set))
        return Trainer(recipe, dataset, Processes(device), result, Tracker(None, tmp_path))

    return make


def check(make: Callable[[], Trainer], folder: Path, precision: str, tolerance: float) -> None:
    """Train twelve steps; go on from the sixth; the losses are `tolerance` apart at most."""
    trainer = make()
    assert trainer.precision.name == precision
    trainer.train()
    whole = read_metrics(folder / "metrics.jsonl")
    losses = [entry["loss"] for entry in whole]
    assert len(losses) == STEPS
    assert np.mean(losses[-3:]) < losses[0] - 0.5
    assert all(np.isfinite(losses))
    assert {parameter.dtype for parameter in trainer.networks.parameters()} == {torch.float32}
    assert ("loss_scale" in whole[-1]) is (precision == "fp16")
    ended = trainer.precision.scaler.state_dict()

    for checkpoint in (folder / "checkpoints").glob("step-*.pt"):
        if checkpoint.name > f"step-{BROKEN:08d}.pt":
            checkpoint.unlink()
    state = load_checkpoint(folder / "checkpoints" / f"step-{BROKEN:08d}.pt")
    saved = state["scaler"]
    assert bool(saved) is (precision == "fp16")
    loaded = make()
    loaded.load_state_dict(state)
    assert loaded.precision.scaler.state_dict() == saved

    again = make()
    again.train()
    gone_on = read_metrics(folder / "metrics.jsonl")
    assert gone_on[:BROKEN] == whole[:BROKEN]
    assert [entry["step"] for entry in gone_on] == list(range(STEPS))
    np.testing.assert_allclose([entry["loss"] for entry in gone_on], losses, rtol=0, atol=tolerance)
    if precision == "fp16":  # six further steps, skipped or not, are six further marks in the scaler's memory
        assert again.precision.scaler.state_dict() != saved
    if not tolerance:
        assert again.precision.scaler.state_dict() == ended


# Minutes, where the CPU has no fp16 of its own.
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_on_a_cpu(precision: str, make: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16, which users are told to leave to GPUs since it is slow here, computes the same way with its scaler."""
    monkeypatch.setattr("soco_core.pretrain.trainer.choose_precision", lambda *_: precision)
    check(lambda: make("cpu", precision), tmp_path, precision, 0.0)

    # On another device `auto` may be another one.
    other = "bf16" if precision == "fp16" else "fp32"
    monkeypatch.setattr("soco_core.pretrain.trainer.choose_precision", lambda *_: other)
    for checkpoint in (tmp_path / "checkpoints").glob("step-*.pt"):
        if checkpoint.name > f"step-{BROKEN:08d}.pt":
            checkpoint.unlink()
    moved = make("cpu", other)
    moved.train()
    assert [(entry["first_step"], entry["precision"]) for entry in moved.attempts] == [(0, precision), (BROKEN, other)]
    scaled = [entry["step"] for entry in read_metrics(tmp_path / "metrics.jsonl") if "loss_scale" in entry]
    assert scaled == list(range(BROKEN) if precision == "fp16" else [])
    draw_curves(tmp_path / "loss.png", tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(precision: str, gpu: torch.device, make: MakeTrainer, tmp_path: Path) -> None:
    """Kernels that add in no fixed order let the runs differ a little; what is loaded is what was saved."""
    if precision == "bf16" and torch.cuda.get_device_capability(gpu) < NATIVE_BF16:
        pytest.skip("this GPU has no bf16 of its own")
    check(lambda: make("cuda", precision), tmp_path, precision, 0.3)


@pytest.mark.gpu
def test_a_step_on_a_gpu_waits_for_nothing(gpu: torch.device, make: MakeTrainer) -> None:
    """CUDA itself says so; with fp16 the scaler has to ask whether to skip the step."""
    trainer = make("cuda", "fp32")
    batches = trainer.batches(0)
    trainer.step(0, next(batches))
    second = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(1, second)
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""A step on an accelerator is queued without waiting for it: the host never asks for what is still being computed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import open_result
from soco_core.engine.distributed import Processes
from soco_core.images import open_source
from soco_core.pretrain.data import ViewDataset
from soco_core.pretrain.trainer import Trainer
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from tests.scenes import write_scenes

NOWHERE = torch.device("meta")
"""Its tensors have no values, so that whoever asks for one is told so."""
SMALL = [
    "views.size=64",
    "views.small_size=48",
    "views.fourth_size=48",
    "model.backbone=resnet18",
    "model.level_limits=[10, 20, 41]",
    "model.fpn_channels=8",
    "model.head_fc_size=16",
    "model.hidden_size=16",
    "model.embedding_size=8",
    "pretrain.batch_size=16",
    "runtime.workers=0",
    "runtime.search_workers=0",
    "views.colour_jitter_probability=1.0",
    "views.blur_probability_first=1.0",
    "views.blur_probability_others=1.0",
]


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("waits")
    write_scenes(folder / "images", 16, (110, 90), (45, 40))
    return propose(load_recipe("demo", SMALL), images=str(folder / "images"), output=str(folder)).uri


@pytest.mark.parametrize("name", ["soco-fpn-100ep", "soco-c4-100ep", "soco-star-400ep", "authors-fpn-100ep"])
def test_a_step_asks_the_device_for_nothing(
    name: str, proposals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(name, SMALL)
    boxes = Proposals.open(open_result(proposals))
    processes = Processes("cpu")
    processes._device = NOWHERE
    trainer = Trainer(recipe, ViewDataset(recipe, boxes, open_source(boxes.image_set)), processes)
    monkeypatch.setattr(trainer.precision, "autocast", nullcontext)  # torch has none for this device
    for number, batch in enumerate(trainer.batches(0)):
        trainer.step(number, batch)
        if number == 1:
            break
    assert len(trainer.measurements._steps) == 2
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        trainer.measurements.read()

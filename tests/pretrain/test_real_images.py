"""`soco pretrain` for the three architectures on real images, small and short: the loss falls, nothing collapses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from soco_core.artifacts.metrics import read_metrics

SOCO = Path(sys.executable).with_name("soco")
# As in benchmarks/RESULTS.md, "Three architectures", with fewer images.
SMALL = [
    "images.subset=72",
    "model.backbone=resnet18",
    "model.fpn_channels=64",
    "model.head_fc_size=128",
    "model.hidden_size=256",
    "model.embedding_size=64",
    "model.level_limits=[21, 41, 82]",
    "views.size=96",
    "views.small_size=48",
    "views.fourth_size=80",
    "views.blur_max_sigma=0.86",
    "pretrain.batch_size=24",
    "pretrain.epochs=7",
    "pretrain.warmup_epochs=1.0",
    "pretrain.base_learning_rate=8.0",
    "runtime.device=cpu",
]
STEPS = 21
OWN = {
    "soco-fpn-100ep": ["model.head_convs=1"],
    "soco-c4-100ep": ["model.roi_size=7"],
    "soco-star-400ep": ["model.head_convs=1"],
}
"""C4 has no such head."""
MINIMUM = {"soco-fpn-100ep": -8, "soco-c4-100ep": -4, "soco-star-400ep": -12}
PAIRS = {"soco-fpn-100ep": 2, "soco-c4-100ep": 1, "soco-star-400ep": 3}


def soco(stage: str, recipe: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    overrides = [part for item in [*SMALL, *OWN[recipe]] for part in ("--set", item)]
    command = [str(SOCO), stage, "--recipe", recipe, *overrides, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def proposals(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The three recipes have the same."""
    runs = tmp_path_factory.mktemp("real") / "runs"
    found = soco("propose", "soco-fpn-100ep", "--images", shared_data / "imagenet-sample", "--output", runs)
    return found.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OWN)
def test_the_loss_falls_and_nothing_collapses(recipe: str, proposals: str, tmp_path: Path) -> None:
    done = soco("pretrain", recipe, "--proposals", proposals, "--output", tmp_path)
    entries = read_metrics(Path(done.stdout.strip()) / "metrics.jsonl")
    assert len(entries) == STEPS
    terms = {key for key in entries[0] if key.startswith("loss_")}
    assert len(terms) == 2 * PAIRS[recipe]
    losses = [entry["loss"] for entry in entries]
    assert min(losses) > MINIMUM[recipe]
    assert np.mean(losses[-5:]) < losses[0] - 1, losses
    # Each pair of views gains from it, in both directions.
    for term in terms:
        assert np.mean([entry[term] for entry in entries[-5:]]) < entries[0][term] - 0.25, term
    assert min(entry["embedding_std"] for entry in entries) > 0.5
    assert "collaps" not in done.stderr

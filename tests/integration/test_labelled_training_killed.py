"""Finetuning and linear evaluation, killed in the middle and gone on with: as the unbroken run, to the last bit."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from soco_core.artifacts.metrics import read_metrics
from tests.integration.trainings import KILLS, STEPS, Training, apart, command, lines, result, same_tensors
from tests.linear.conftest import write_classes

DETECTOR = [
    "model.backbone=resnet18",
    "model.fpn_channels=16",
    "model.head_convs=1",
    "model.head_fc_size=32",
    "demo_data.train_images=6",
    "demo_data.val_images=2",
    "demo_data.unlabelled_images=1",
    "demo_data.image_size=64",
    "finetune.iterations=12",
    "finetune.batch_size=2",
    "finetune.warmup_iterations=2",
    "finetune.train_sizes=[48, 64]",
    "finetune.test_size=64",
    "finetune.max_size=128",
    "finetune.proposals_train=40",
    "finetune.proposals_test=40",
    "finetune.mask_convs=1",
    "finetune.mask_channels=8",
    "finetune.precise_bn_images=4",
    "runtime.workers=1",
    "runtime.checkpoint_steps=4",
]
PROBE = [
    "model.backbone=resnet18",
    "linear.epochs=4",
    "linear.batch_size=4",
    "linear.image_size=32",
    "linear.resize=40",
    "linear.knn_neighbours=3",
    "runtime.workers=1",
    "runtime.checkpoint_steps=3",
]
WEIGHTS = {"finetune": "model.safetensors", "linear": "linear.safetensors"}

Commands = dict[str, Callable[[Path], list[str]]]


@pytest.fixture(autouse=True)
def trainings_are_apart() -> Iterator[None]:
    with apart():
        yield


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The commands of the trainings on labelled images, by stage, each with the folder of its results."""
    data = tmp_path_factory.mktemp("labelled")
    made = subprocess.run(command("demo-data", DETECTOR, output=data), capture_output=True, text=True, check=True)
    classes = write_classes(data / "classes")
    return {
        "finetune": lambda output: command("finetune", DETECTOR, coco=made.stdout.strip(), output=output),
        "linear": lambda output: command("linear", PROBE, images=classes, init="scratch", output=output),
    }


@pytest.fixture(scope="module")
def undisturbed(labelled: Commands, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The result of such a training that nothing disturbs, for a number of processes."""

    @cache
    def run(stage: str, count: int) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        training = Training(labelled[stage](folder / "runs"), count, folder)
        assert training.wait() == 0, training.said()
        return result(folder)

    return run


@pytest.mark.parametrize(
    ("stage", "count", "way"),
    [
        ("finetune", 1, "kill_all"),
        pytest.param("finetune", 2, "preempt", marks=pytest.mark.slow),
        pytest.param("linear", 1, "kill_all", marks=pytest.mark.slow),
        pytest.param("linear", 2, "preempt", marks=pytest.mark.slow),
    ],
)
def test_finetuning_and_linear_evaluation_go_on_the_same_way(
    stage: str,
    count: int,
    way: str,
    labelled: Commands,
    undisturbed: Callable[[str, int], Path],
    tmp_path: Path,
) -> None:
    generator = random.Random(f"{stage} {count} {way}")
    program = labelled[stage](tmp_path / "runs")
    training = Training(program, count, tmp_path)
    moment = generator.randrange(5, 9)
    training.wait_for(lambda: lines(tmp_path) >= moment)
    training.wait_for(lambda: any(tmp_path.glob("runs/*/*/checkpoints/step-*.pt")))
    KILLS[way](training, generator)
    assert not list(tmp_path.glob("runs/*/*/done.json"))

    again = Training(program, count, tmp_path / "again")
    assert again.wait() == 0, again.said()
    assert f"{stage}: going on from step" in again.said()
    ours, theirs = result(tmp_path), undisturbed(stage, count)
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    assert len(read_metrics(ours / "metrics.jsonl")) == STEPS
    assert same_tensors(ours / WEIGHTS[stage], theirs / WEIGHTS[stage])

"""Every training on a device with a memory of its own: what it gives is what the CPU gives.

The device is one that the CPU computes, and with `pytest -m gpu` a real GPU.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import ResultDirectory
from soco_core.demo_data.stage import demo_data
from soco_core.detection.predict_command import predict_images
from soco_core.detection.stage import finetune
from soco_core.detection.train import Finetuning
from soco_core.engine.precision import Precision
from soco_core.errors import InterruptedStageError
from soco_core.linear.stage import linear
from soco_core.linear.train import LinearTraining
from soco_core.pretrain.stage import pretrain
from soco_core.pretrain.trainer import Trainer
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe, parse_recipe
from tests.detection.test_stage import TINY
from tests.gpu import computing_on, require_gpu
from tests.linear.conftest import TINY as TINY_LINEAR
from tests.linear.conftest import write_classes
from tests.pretend_device import Seen, ThereTensor, pretend_device
from tests.pretrain.test_waits import SMALL
from tests.scenes import write_scenes

PRETRAINING = [*SMALL, "pretrain.epochs=2", "pretrain.batch_size=8", "pretrain.warmup_epochs=0.0"]
slow = pytest.mark.slow
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter", "ignore:'pin_memory'")

Run = Callable[[Path], ResultDirectory]
Check = Callable[[Run, type[Any], Path, pytest.MonkeyPatch], None]


@pytest.fixture
def proposals(tmp_path: Path) -> str:
    write_scenes(tmp_path / "images", 16, (110, 90), (45, 40))
    return propose(load_recipe("demo", SMALL), images=str(tmp_path / "images"), output=str(tmp_path)).uri


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_classes(tmp_path_factory.mktemp("classes"))


def losses(result: ResultDirectory) -> list[float]:
    return [entry["loss"] for entry in read_metrics(result.path / "metrics.jsonl")]


def broken_once(task: type[Any], at: int, patch: pytest.MonkeyPatch) -> None:
    """Send the signal that ends a training after its step `at`, once."""
    step = task.step

    def stop(self: Any, number: int, batch: Any) -> None:
        step(self, number, batch)
        if number == at:
            patch.setattr(task, "step", step)
            signal.raise_signal(signal.SIGINT)

    patch.setattr(task, "step", stop)


def check(run: Run, task: type[Any], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Train on the CPU, and on the device with a break, after which the state is loaded."""
    patch.setattr(Precision, "autocast", lambda _: nullcontext())  # torch has none for this device
    whole = run(folder / "cpu")
    with pretend_device("meta", patch):
        broken_once(task, 2, patch)
        with pytest.raises(InterruptedStageError):
            run(folder / "device")
        there = run(folder / "device")
        assert Seen.asked
    np.testing.assert_allclose(losses(there)[:2], losses(whole)[:2], rtol=1e-5)
    # The gradients of a layer that is used on several levels are added up in another order there.
    np.testing.assert_allclose(losses(there), losses(whole), rtol=1e-3)
    assert there.summary.get("metrics") == whole.summary.get("metrics")


def check_mixed(run: Run, task: type[Any], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Train with CUDA's rules in what `auto` chooses for a V100 and for an A100; the losses stay near the CPU's."""
    exact = losses(run(folder / "cpu"))
    for capability, dtype in (((7, 0), torch.float16), ((8, 0), torch.bfloat16)):
        with patch.context() as mine, pretend_device("cuda", mine, capability):
            rounded = losses(run(folder / str(dtype)))
            assert dtype in Seen.convolved
        assert len(rounded) == len(exact)
        # Which proposals a detector is trained on may depend on a rounding.
        assert rounded[0] == pytest.approx(exact[0], rel=0.15, abs=0.05)
        assert np.isfinite(rounded).all()


def check_on_a_gpu(run: Run, task: type[Any], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Train on the CPU; on a GPU in float32 with a break; on a GPU in what `auto` chooses for it."""
    gpu = require_gpu()
    with computing_on(torch.device("cpu"), patch, exact=True):
        whole = losses(run(folder / "cpu"))
    with computing_on(gpu, patch, exact=True):
        broken_once(task, 2, patch)
        with pytest.raises(InterruptedStageError):
            run(folder / "gpu")
        there = losses(run(folder / "gpu"))
    with computing_on(gpu, patch):
        rounded = losses(run(folder / "rounded"))
    assert len(whole) == len(there) == len(rounded)
    assert there[0] == pytest.approx(whole[0], rel=1e-4)
    np.testing.assert_allclose(there, whole, rtol=2e-3, atol=2e-3)
    assert rounded[0] == pytest.approx(whole[0], rel=0.15, abs=0.05)
    assert np.isfinite(rounded).all()


CHECKS = [check, check_mixed, pytest.param(check_on_a_gpu, marks=pytest.mark.gpu)]


def test_the_device_says_what_a_gpu_would_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_device("meta", monkeypatch) as device:
        images, weight = torch.rand(1, 2, 4, 4).to(device), torch.rand(3, 2, 1, 1)
        for mix in (
            lambda: functional.conv2d(images, weight),
            lambda: images @ torch.ones(4, 4),
            lambda: torch.cat([images, torch.ones(1, 2, 4, 4)]),
        ):
            with pytest.raises(RuntimeError, match="two devices"):
                mix()
        with pytest.raises(TypeError, match="cpu"):
            np.asarray(images)
        there = weight.to(device).requires_grad_()
        convolved = functional.conv2d(images, there)
        assert isinstance(convolved, ThereTensor)
        convolved.sum().backward()
        assert convolved.device == device == there.grad.device
        assert Seen.asked == 0
        assert float(convolved.detach().sum()) == pytest.approx(float(functional.conv2d(images.cpu(), weight).sum()))
        assert Seen.asked == 1


ARCHITECTURES = [
    "soco-fpn-100ep",
    *(pytest.param(name, marks=slow) for name in ("soco-star-400ep", "soco-c4-100ep", "authors-fpn-100ep")),
]
ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)]
DETECTORS = ["mask-rcnn-fpn", *(pytest.param(name, marks=slow) for name in ("mask-rcnn-c4", "retinanet", "fcos"))]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("checked", CHECKS)
def test_pretraining(
    checked: Check, name: str, proposals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(name, PRETRAINING)
    checked(lambda root: pretrain(recipe, proposals=proposals, output=str(root)), Trainer, tmp_path, monkeypatch)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("checked", CHECKS)
def test_finetuning(
    checked: Check, detector: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "detectron2":
        pytest.importorskip("detectron2")
    chosen = [
        f"finetune.engine={engine}",
        f"finetune.detector={detector}",
        "finetune.iterations=4",
        "runtime.evaluate_steps=3",
    ]
    recipe = parse_recipe(TINY, [*chosen, "runtime.finetune_precision=auto"])
    data = str(demo_data(recipe, output=str(tmp_path)).path)

    def run(root: Path) -> ResultDirectory:
        trained = finetune(recipe, coco=data, init="scratch", output=str(root))
        file = predict_images(str(trained.path), [data], output=str(root / "found"), score=0.02)
        assert Path(file).stat().st_size > 1000
        return trained

    checked(run, Finetuning, tmp_path, monkeypatch)


@pytest.mark.parametrize("checked", CHECKS)
def test_linear(checked: Check, classes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse_recipe(TINY_LINEAR)
    checked(
        lambda root: linear(recipe, images=classes, init="scratch", output=str(root)),
        LinearTraining,
        tmp_path,
        monkeypatch,
    )

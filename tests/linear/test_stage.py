"""The whole stage: it learns, it stops and goes on exactly, and it refuses what it cannot use."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import ResultDirectory, locate, writing
from soco_core.artifacts.weights import CANONICAL, load_canonical, save_weights
from soco_core.config import Recipe
from soco_core.errors import InputError, InterruptedStageError
from soco_core.linear import neighbours, train
from soco_core.linear.stage import linear
from soco_core.recipes import parse_recipe
from tests.linear.conftest import TINY, write_classes

FILES = (
    "metrics.json",
    "metrics.jsonl",
    "linear.safetensors",
    "neighbours.json",
    "coverage.json",
    "predictions.parquet",
)


@pytest.fixture(scope="module")
def unbroken(classes_folder: str, tmp_path_factory: pytest.TempPathFactory) -> ResultDirectory:
    output = str(tmp_path_factory.mktemp("whole"))
    return linear(parse_recipe(TINY), images=classes_folder, init="scratch", output=output)


def same(result: ResultDirectory, other: ResultDirectory) -> bool:
    return all((result.path / name).read_bytes() == (other.path / name).read_bytes() for name in FILES)


def test_the_result_holds_what_it_promises(unbroken: ResultDirectory, tiny: Recipe) -> None:
    benchmark = BenchmarkResult.read(unbroken.path / "metrics.json")
    assert (benchmark.benchmark, benchmark.method, benchmark.initialisation) == ("linear", "Scratch", "scratch")
    assert tuple(benchmark.metrics) == ("top1", "top5", "knn")
    assert (benchmark.train_images, benchmark.val_images, benchmark.iterations, benchmark.batch_size) == (12, 6, 12, 4)
    reached = benchmark.details["learning_rates"]
    assert [entry["learning_rate"] for entry in reached] == [30.0, 3.0]
    assert benchmark.metrics["top1"] == max(entry["top1"] for entry in reached)
    assert benchmark.metrics["top5"] == 100.0  # of three classes
    steps = read_metrics(unbroken.path / "metrics.jsonl")
    assert [entry["step"] for entry in steps] == list(range(12))
    assert steps[0]["loss"] == pytest.approx(np.log(3), abs=0.2)
    assert all(entry["loss"] == min(entry["loss/30"], entry["loss/3"]) for entry in steps)
    coverage = json.loads((unbroken.path / "coverage.json").read_text())
    assert (coverage["loaded"], len([key for key in coverage["newly_initialised"] if key.startswith("heads.")])) == (
        {},
        4,
    )
    assert not list((unbroken.path / "checkpoints").iterdir())
    assert unbroken.summary["metrics"] == benchmark.metrics


def test_the_predictions_are_those_of_the_metrics(unbroken: ResultDirectory) -> None:
    rows = pq.read_table(unbroken.path / "predictions.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"val/class-{label}/{number}.png" for label in range(3) for number in (0, 1)]
    assert [row["label"] for row in rows] == [row["id"].split("/")[1] for row in rows]
    assert all(sorted(row["top5"]) == ["class-0", "class-1", "class-2"] for row in rows)
    hits = np.mean([row["top5"][0] == row["label"] for row in rows])
    assert BenchmarkResult.read(unbroken.path / "metrics.json").metrics["top1"] == pytest.approx(100 * hits)
    heads = load_canonical(unbroken.path / "linear.safetensors")
    assert {key: list(value.shape) for key, value in heads.items()} == {
        f"heads.{number}.{name}": shape for number in (0, 1) for name, shape in (("weight", [3, 512]), ("bias", [3]))
    }


def test_again_is_free_and_another_setting_is_another_result(
    unbroken: ResultDirectory, classes_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soco_core.linear.probe.probe", None)
    output = str(unbroken.path.parents[1])
    again = linear(parse_recipe(TINY, ["runtime.workers=2"]), images=classes_folder, init="scratch", output=output)
    assert again.fingerprint == unbroken.fingerprint
    for override in ("seed=1", "linear.epochs=5", "model.backbone=resnet34", "images.max_pixels=100000"):
        with pytest.raises(TypeError):  # it would compute
            linear(parse_recipe(TINY, [override]), images=classes_folder, init="scratch", output=output)


def test_a_reused_result_says_in_which_precision_it_was_computed(
    unbroken: ResultDirectory, classes_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(precision: str) -> list[str]:
        recipe = parse_recipe(TINY, [f"runtime.precision={precision}"])
        linear(recipe, images=classes_folder, init="scratch", output=str(unbroken.path.parents[1]))
        return capsys.readouterr().err.splitlines()

    assert said("auto") == said("fp32") == ["linear Scratch: already done, nothing to compute"]
    assert said("bf16")[1:] == [
        "warning: linear: this result was computed in fp32, not in runtime.precision (bf16). To compute it anew, name "
        f"another --output, or remove {unbroken.uri}"
    ]


def test_a_result_says_in_which_precisions_it_was_computed(
    classes_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the nearest neighbours in one, and the training in another."""
    monkeypatch.setattr("soco_core.linear.probe.LinearTraining", None)
    recipe = parse_recipe(TINY, ["runtime.precision=bf16"])
    with pytest.raises(TypeError):
        linear(recipe, images=classes_folder, init="scratch", output=str(tmp_path))
    monkeypatch.undo()
    result = linear(parse_recipe(TINY), images=classes_folder, init="scratch", output=str(tmp_path))
    assert result.summary["precision"] == "bf16, then fp32"
    assert BenchmarkResult.read(result.path / "metrics.json").details["precision"] == "bf16, then fp32"


def test_workers_change_nothing(unbroken: ResultDirectory, classes_folder: str, tmp_path: Path) -> None:
    recipe = parse_recipe(TINY, ["runtime.workers=2"])
    assert same(linear(recipe, images=classes_folder, init="scratch", output=str(tmp_path)), unbroken)


@pytest.mark.parametrize("at", [2, 7])
def test_stopped_by_a_signal_it_goes_on_to_the_bit(
    at: int, unbroken: ResultDirectory, classes_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = train.LinearTraining.step

    def signalled(self: Any, number: int, batch: Any) -> None:
        step(self, number, batch)
        if number == at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train.LinearTraining, "step", signalled)
    with pytest.raises(InterruptedStageError, match=rf"SIGTERM.*after step {at + 1} of 12 is saved"):
        linear(parse_recipe(TINY), images=classes_folder, init="scratch", output=str(tmp_path))
    monkeypatch.undo()
    # What was found before the training is not computed again.
    monkeypatch.setattr("soco_core.linear.probe.nearest_neighbours", None)
    torch.rand(100)
    assert same(linear(parse_recipe(TINY), images=classes_folder, init="scratch", output=str(tmp_path)), unbroken)


def test_a_signal_before_the_training_stops_the_pass(
    unbroken: ResultDirectory, classes_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = neighbours.Neighbours.see

    def signalled(self: Any, *arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        see(self, *arguments)

    monkeypatch.setattr(neighbours.Neighbours, "see", signalled)
    with pytest.raises(InterruptedStageError, match="SIGINT; the pass over all images before the training begins anew"):
        linear(parse_recipe(TINY), images=classes_folder, init="scratch", output=str(tmp_path))
    monkeypatch.undo()
    assert same(linear(parse_recipe(TINY), images=classes_folder, init="scratch", output=str(tmp_path)), unbroken)


def test_colours_are_learnt_from_a_few_pictures(tmp_path: Path) -> None:
    """The features of a network that was never trained suffice for that."""
    root = write_classes(tmp_path / "images", train=12, val=4, classes=5)
    overrides = ["linear.epochs=12", "linear.batch_size=10", "linear.learning_rates=[1.0e-6, 30.0]"]
    result = linear(parse_recipe(TINY, overrides), images=root, init="scratch", output=str(tmp_path / "out"))
    benchmark = BenchmarkResult.read(result.path / "metrics.json")
    metrics = benchmark.metrics
    assert metrics["top1"] is not None
    assert metrics["top1"] > 90
    assert metrics["top1"] == benchmark.details["learning_rates"][1]["top1"]
    assert benchmark.details["learning_rates"][0]["top1"] < 60  # hardly trained: the best one counts
    assert benchmark.details["best_learning_rate"] == 30.0
    assert metrics["top5"] == 100
    assert metrics["knn"] is not None
    assert metrics["knn"] > 90


def test_bad_images_are_named_and_left_out_of_the_training(
    classes_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(classes_folder, tmp_path / "copy"))
    for number in (0, 2):
        (copy / f"train/class-1/{number}.png").write_bytes(b"no image")
    result = linear(parse_recipe(TINY), images=str(copy), init="scratch", output=str(tmp_path / "out"))
    benchmark = BenchmarkResult.read(result.path / "metrics.json")
    assert (benchmark.train_images, benchmark.iterations, benchmark.details["bad_images"]) == (10, 8, 2)
    bad = json.loads((result.path / "neighbours.json").read_text())["bad_images"]
    assert bad == [
        {"id": f"train/class-1/{number}.png", "reason": "not an image in a known format"} for number in (0, 2)
    ]
    assert (
        f"2 of 12 training images cannot be read and are left out, neighbours.json lists them; the first: {copy}"
        in (capsys.readouterr().err)
    )
    # They have no neighbours either: the same as if the files were not there.
    for number in (0, 2):
        (copy / f"train/class-1/{number}.png").unlink()
    without = linear(parse_recipe(TINY), images=str(copy), init="scratch", output=str(tmp_path / "out"))
    assert BenchmarkResult.read(without.path / "metrics.json").metrics["knn"] == benchmark.metrics["knn"]


def test_a_bad_image_does_not_shift_the_labels_of_others(classes_folder: str, tmp_path: Path) -> None:
    """Every validation image is one of the training images, so the nearest has its label."""
    shutil.copytree(Path(classes_folder, "train"), tmp_path / "copy/train")
    shutil.copytree(Path(classes_folder, "train"), tmp_path / "copy/val")
    for name in ("class-0/1.png", "class-1/3.png"):
        (tmp_path / "copy/train" / name).write_bytes(b"")
        (tmp_path / "copy/val" / name).unlink()
    recipe = parse_recipe(TINY, ["linear.knn_neighbours=1", "linear.batch_size=5", "linear.epochs=1"])
    result = linear(recipe, images=str(tmp_path / "copy"), init="scratch", output=str(tmp_path))
    assert BenchmarkResult.read(result.path / "metrics.json").metrics["knn"] == 100


def test_wrong_inputs_end_before_the_training(classes_folder: str, tmp_path: Path, tiny: Recipe) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="no such file or folder"):
        linear(tiny, images=classes_folder, init=str(tmp_path / "nothing"), output=str(output))
    with pytest.raises(InputError, match="no such folder"):
        linear(tiny, images=str(tmp_path / "nothing"), init="scratch", output=str(output))
    assert not output.exists()
    copy = Path(shutil.copytree(classes_folder, tmp_path / "copy"))
    for name in ("val/class-0/1.png", "val/class-2/0.png"):
        (copy / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"class-0/1\.png: empty file \(2 such images\); an accuracy is of all valid"):
        linear(tiny, images=str(copy), init="scratch", output=str(output))
    spoilt = Path(shutil.copytree(classes_folder, tmp_path / "spoilt"))
    for path in spoilt.glob("train/*/*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"empty file; no training image can be read \(of 12\)"):
        linear(tiny, images=str(spoilt), init="scratch", output=str(output))


def test_a_conversion_and_a_file_of_the_same_weights_reach_the_same(
    classes_folder: str, tmp_path: Path, tiny: Recipe
) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "supervised.pth")
    from_file = linear(tiny, images=classes_folder, init=str(tmp_path / "supervised.pth"), output=str(tmp_path))
    benchmark = BenchmarkResult.read(from_file.path / "metrics.json")
    assert benchmark.method == "Supervised"
    assert benchmark.initialisation.startswith("supervised.pth (sha256 ")
    coverage = json.loads((from_file.path / "coverage.json").read_text())
    assert set(coverage["left_out"]) == {"fc.weight", "fc.bias"}
    for stage, summary, row in (("convert", {}, "SoCo"), ("import", {"method": "MoCo v2", "file": "m.pth"}, "MoCo v2")):
        converted = locate(str(tmp_path), stage, 1, tiny, ("model",), {})
        with writing(converted, tiny):
            weights = {f"encoder.{key}": value for key, value in state.items() if not key.startswith("fc.")}
            save_weights(converted.path / CANONICAL, weights | {"head.fc1.weight": torch.zeros(2)}, {})
            converted.finish(summary)
        result = linear(tiny, images=classes_folder, init=str(converted.path), output=str(tmp_path))
        found = BenchmarkResult.read(result.path / "metrics.json")
        assert (found.method, found.metrics) == (row, benchmark.metrics)
        for name in ("linear.safetensors", "metrics.jsonl", "predictions.parquet"):
            assert (result.path / name).read_bytes() == (from_file.path / name).read_bytes()
    with pytest.raises(InputError, match="a result of `linear`, but one of `convert` or `import` is needed"):
        linear(tiny, images=classes_folder, init=str(from_file.path), output=str(tmp_path))


def test_real_images_shortened(shared_data: Path, tmp_path: Path) -> None:
    """40 classes of ImageNet's sample, which has one image of each: learnt by heart from its centre crops."""
    for folder in sorted((shared_data / "imagenet-sample").iterdir())[::20]:
        for split in ("train", "val"):
            (tmp_path / "imagenet" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "imagenet" / split / folder.name).symlink_to(folder)
    overrides = ["linear.epochs=1", "linear.batch_size=16", "linear.knn_neighbours=1"]
    recipe = parse_recipe(TINY, overrides)
    result = linear(recipe, images=str(tmp_path / "imagenet"), init="scratch", output=str(tmp_path / "out"))
    benchmark = BenchmarkResult.read(result.path / "metrics.json")
    assert benchmark.details["classes"] == benchmark.train_images == benchmark.val_images == 40
    assert benchmark.metrics["knn"] == 100  # the nearest one is the image itself
    assert benchmark.iterations == 2

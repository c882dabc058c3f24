"""The engine `detectron2`: its detectors under the common call convention, in the real stage, and their weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet18

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.artifacts.initialisation import find_initialisation
from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import locate, writing
from soco_core.artifacts.weight_names import to_canonical, to_target
from soco_core.artifacts.weights import Coverage, save_weights
from soco_core.config import Recipe
from soco_core.convert.export import Export, export, split_pretrained
from soco_core.demo_data.stage import demo_data
from soco_core.detection import fcos as fcos_module
from soco_core.detection import train as train_module
from soco_core.detection.engines import build_engine_detector, engine_export, load_engine_initialisation
from soco_core.detection.stage import finetune
from soco_core.engine.sync_batch_norm import CpuSyncBatchNorm, synchronise_batch_norm
from soco_core.errors import InputError, SocoError
from soco_core.models.soco import OnlineNetwork
from soco_core.recipes import parse_recipe
from tests.detection.parity import give_weights, objects, pictures, randomise

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")

DETECTORS = ["mask-rcnn-fpn", "mask-rcnn-c4", "faster-rcnn-c4", "retinanet", "fcos"]
TINY = """
model: {backbone: resnet18, fpn_channels: 16, head_convs: 1, head_fc_size: 32}
demo_data: {train_images: 6, val_images: 2, unlabelled_images: 1, image_size: 64}
finetune:
  engine: detectron2
  benchmark: demo
  iterations: 3
  batch_size: 2
  learning_rate: 0.01
  warmup_iterations: 1
  train_sizes: [48, 64]
  test_size: 64
  max_size: 128
  anchor_sizes: [8, 16, 24, 32, 48]
  fcos_limits: [16, 24, 32, 48]
  canonical_box_size: 28
  c4_roi_size: 4
  rpn_batch_per_image: 32
  anchors_train: 100
  anchors_test: 100
  proposals_train: 40
  proposals_test: 40
  roi_batch_per_image: 16
  mask_convs: 1
  mask_channels: 8
  score_threshold: 0.001
  precise_bn_images: 4
runtime: {device: cpu, workers: 0, checkpoint_steps: 1}
"""
CLASSES = 3


def tiny(detector: str, *changes: str) -> Recipe:
    return parse_recipe(TINY, [f"finetune.detector={detector}", *changes])


def kind_of(recipe: Recipe) -> Any:
    return "c4" if not recipe.finetune.has_pyramid else "fpn" if recipe.finetune.has_masks else "dense"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(demo_data(parse_recipe(TINY), output=str(tmp_path_factory.mktemp("data"))).path)


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_stage_trains_evaluates_and_goes_on_exactly(
    detector: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FCOS has a norm of one group a channel below 64, which one value a channel, that of P7, is too few for.
    recipe = tiny(detector, "model.fpn_channels=64")
    unbroken = finetune(recipe, coco=data, init="scratch", output=str(tmp_path / "whole"))
    steps = read_metrics(unbroken.path / "metrics.jsonl")
    assert len(steps) == 3
    masks = {"loss_mask"} & set(steps[0])
    assert bool(masks) == recipe.finetune.has_masks
    names = {name for name in steps[0] if name.startswith("loss_")}
    assert all(math.isfinite(step[name]) for step in steps for name in names)
    assert len(names) == {"retinanet": 2, "fcos": 3}.get(detector, 4 + len(masks))
    assert {"loss_classifier", "loss_box_reg"} < names or detector == "retinanet"
    found = json.loads((unbroken.path / "predictions.json").read_text())
    assert found
    assert all(("segmentation" in item) == recipe.finetune.has_masks for item in found)
    assert BenchmarkResult.read(unbroken.path / "metrics.json").train_images == 6
    with safe_open(unbroken.path / "model.safetensors", "pt") as weights:
        assert weights.metadata()["format"] == "detectron2"
        assert ("backbone.bottom_up.stem.conv1.weight" in weights.keys()) == recipe.finetune.has_pyramid  # noqa: SIM118

    step = train_module.Finetuning.step

    def stopping(task: Any, number: int, batch: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        step(task, number, batch)

    monkeypatch.setattr(train_module.Finetuning, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, coco=data, init="scratch", output=str(tmp_path / "broken"))
    monkeypatch.undo()
    torch.rand(100)  # the generator's state at the time of going on must not matter
    result = finetune(recipe, coco=data, init="scratch", output=str(tmp_path / "broken"))
    assert read_metrics(result.path / "metrics.jsonl") == steps
    assert (result.path / "predictions.json").read_bytes() == (unbroken.path / "predictions.json").read_bytes()
    before, after = (load_file(place.path / "model.safetensors") for place in (unbroken, result))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("detector", "variant"), [*((name, "mmdetection") for name in DETECTORS), ("fcos", "detectron2")]
)
def test_both_engines_compute_the_same_with_the_same_weights(
    detector: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(
        detector,
        "model.fpn_channels=64",
        f"finetune.fcos_variant={variant}",
        "finetune.anchor_sizes=[16,32,64,96,128]",
        "finetune.detections_per_image=20",
        "finetune.score_threshold=0.02",
    )
    torch.manual_seed(0)
    theirs = build_engine_detector(recipe, CLASSES)
    settings = recipe.finetune.model_copy(update={"engine": "torchvision"})
    ours = build_engine_detector(recipe.model_copy(update={"finetune": settings}), CLASSES)
    randomise(ours)
    for name, value in ours.named_parameters():
        if name == "head.scales":
            nn.init.uniform_(value, 0.8, 1.2)
    give_weights(ours, theirs, recipe)
    # The streams of random numbers differ: both take the first that may be sampled.
    monkeypatch.setattr(torch, "randperm", lambda count, **keywords: torch.arange(count))
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        if not recipe.finetune.has_masks and recipe.finetune.has_pyramid:
            # detectron2 clips the boxes of dense detectors behind the NMS.
            monkeypatch.setattr(fcos_module, "NMS_THRESHOLD", 1.0)
            monkeypatch.setattr(ours, "nms_thresh", 1.0, raising=False)
            monkeypatch.setattr(theirs, "test_nms_thresh", 1.0)
        for mine, other in zip(ours(pictures()), theirs(pictures()), strict=True):
            kept = (mine["boxes"][:, 2:] > mine["boxes"][:, :2]).all(1)
            assert kept.sum() > 5
            assert mine.keys() == other.keys()
            assert torch.equal(mine["labels"][kept], other["labels"])
            for name, tolerance in (("boxes", 1e-3), ("scores", 1e-5), ("masks", 1e-5)):
                if name in mine:
                    torch.testing.assert_close(mine[name][kept], other[name], rtol=0, atol=tolerance)
    ours.train()
    theirs.train()
    found, expected = ours(pictures(), objects()), theirs(pictures(), objects())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value > 1e-3
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    for losses in (found, expected):
        torch.stack(list(losses.values())).sum().backward()
    first, second = (
        parameter.grad
        for model in (ours, theirs)
        for name, parameter in model.named_parameters()
        if name.endswith(("body.conv1.weight", "stem.conv1.weight"))
    )
    assert first is not None
    assert first.abs().max() > 1e-3
    torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4 * float(first.abs().max()))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnext50_32x4d", "wide_resnet50_2"])
@pytest.mark.parametrize("detector", ["mask-rcnn-fpn", "mask-rcnn-c4", "retinanet"])
def test_names_and_shapes_are_the_converters_both_ways(detector: str, backbone: str) -> None:
    recipe = tiny(detector, f"model.backbone={backbone}")
    kind = kind_of(recipe)
    with torch.device("meta"):
        canonical, _ = split_pretrained(OnlineNetwork(recipe.model).state_dict(), "test")
    if kind == "c4":  # it takes the backbone alone
        canonical = {key: value for key, value in canonical.items() if key.startswith("encoder.")}
    exported, _ = export(canonical, Export("detectron2", kind), recipe.model, {})
    state = build_engine_detector(recipe, CLASSES).state_dict()
    own = {key: value.shape for key, value in state.items() if to_canonical(key, "detectron2", 1, kind) is not None}
    assert own == {key: value.shape for key, value in exported.items()}
    others = {".".join(key.split(".")[: 3 if ".res5." in key else 2]) for key in state.keys() - own}
    two_stage = {"proposal_generator.rpn_head", "roi_heads.box_predictor", "roi_heads.mask_head"}
    new = {"mask-rcnn-c4": two_stage | {"roi_heads.res5.norm"}, "mask-rcnn-fpn": two_stage}
    if kind == "dense":
        assert {name.split(".")[0] for name in others} == {"backbone", "head"}
        assert {name for name in others if name.startswith("backbone")} == {"backbone.top_block"}
    else:
        assert others == new[detector]


def loaded(recipe: Recipe, place: str) -> tuple[dict[str, Tensor], Coverage]:
    torch.manual_seed(4)
    model = build_engine_detector(recipe, CLASSES)
    start = find_initialisation(place, engine_export(recipe))
    coverage = load_engine_initialisation(model, start, recipe)
    state = model.state_dict()
    assert {*coverage.loaded.values(), *coverage.newly_initialised} == set(state)
    assert len(coverage.loaded) + len(coverage.newly_initialised) == len(state)
    return state, coverage


def pretrained(recipe: Recipe) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return split_pretrained(OnlineNetwork(recipe.model).state_dict(), "test")[0]


@pytest.mark.parametrize("source", ["convert", "canonical", "torchvision", "detectron2"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_pretraining_fills_all_that_it_pretrained(detector: str, source: str, tmp_path: Path) -> None:
    recipe = tiny(detector)
    canonical = pretrained(recipe)
    exports: dict[Any, dict[str, Tensor]] = {
        name: export(canonical, Export(name, "fpn"), recipe.model, {})[0] for name in ("torchvision", "detectron2")
    }
    if source == "convert":
        result = locate(str(tmp_path), "convert", 1, recipe, ("model",), {})
        with writing(result, recipe):
            torch.save({"model": exports["detectron2"]}, result.path / "detectron2.pth")
            # It is the export for detectron2 that must be read.
            torch.save({}, result.path / "torchvision.pth")
            result.finish({})
        place = result.uri
    elif source == "canonical":
        place = str(tmp_path / "canonical.safetensors")
        save_weights(Path(place), canonical, {})
    else:
        place = str(tmp_path / "weights.pth")
        torch.save(exports[source], place)
    state, coverage = loaded(recipe, place)
    kind = kind_of(recipe)
    taken = {
        key
        for key in canonical
        if key.startswith("encoder.")
        or kind == "fpn"
        or (kind == "dense" and key.startswith("neck.") and ".0." not in key)
    }
    names = {key: to_target(key, "detectron2", 1, kind) for key in taken}
    assert set(coverage.loaded.values()) == set(names.values())
    assert all(torch.equal(state[name], canonical[key]) for key, name in names.items() if name is not None)
    assert len(coverage.loaded) + len(coverage.left_out) == len(canonical)
    reasons = {"fpn": 0, "c4": 2, "dense": 2}[kind]
    assert len(set(coverage.left_out.values())) == reasons
    assert coverage.target == f"detectron2 {({'fpn': 'Mask R-CNN', 'c4': 'C4', 'dense': 'RetinaNet or FCOS'})[kind]}"


@pytest.mark.parametrize("names", ["torchvision", "detectron2"])
@pytest.mark.parametrize("detector", ["mask-rcnn-fpn", "faster-rcnn-c4", "fcos"])
def test_a_classifier_fills_the_backbone(detector: str, names: str, tmp_path: Path) -> None:
    recipe = tiny(detector)
    torch.manual_seed(2)
    resnet = resnet18().state_dict()
    written = {f"module.{key}": value for key, value in resnet.items()}
    if names == "detectron2":
        written = {"stem.fc.weight": resnet.pop("fc.weight"), "stem.fc.bias": resnet.pop("fc.bias")}
        for key, value in resnet.items():
            name = to_target(f"encoder.{key}", "detectron2", 1, "fpn")
            assert name is not None
            written[name.removeprefix("backbone.bottom_up.")] = value
    torch.save({"state_dict": written}, tmp_path / "weights.pth")
    state, coverage = loaded(recipe, str(tmp_path / "weights.pth"))
    assert len(coverage.loaded) == 120
    assert len(coverage.left_out) == 2
    for key, value in resnet.items():
        name = to_target(f"encoder.{key}", "detectron2", 1, kind_of(recipe))
        assert name is None or torch.equal(state[name], value)
    assert {to_canonical(name, "detectron2", 1, kind_of(recipe)) for name in coverage.loaded.values()} == {
        f"encoder.{key}" for key in resnet if not key.startswith("fc.")
    }


@pytest.mark.parametrize("detector", DETECTORS)
def test_its_own_weights_are_taken_whole_and_scratch_depends_on_the_seed_alone(detector: str, tmp_path: Path) -> None:
    recipe = tiny(detector)
    torch.manual_seed(5)
    first = build_engine_detector(recipe, CLASSES).state_dict()
    torch.save(first, tmp_path / "weights.pth")
    state, coverage = loaded(recipe, str(tmp_path / "weights.pth"))
    assert not coverage.newly_initialised
    assert not coverage.left_out
    assert all(torch.equal(state[key], value) for key, value in first.items())
    torch.manual_seed(5)
    again = build_engine_detector(recipe, CLASSES)
    coverage = load_engine_initialisation(again, find_initialisation("scratch"), recipe)
    assert set(coverage.newly_initialised) == set(first)
    assert set(coverage.newly_initialised.values()) == {"trained from scratch"}
    assert all(torch.equal(again.state_dict()[key], value) for key, value in first.items())


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    recipe = tiny("mask-rcnn-fpn")
    torch.manual_seed(2)
    resnet = resnet18().state_dict()

    def refused(tensors: dict[str, Tensor], *words: str) -> None:
        torch.save(tensors, tmp_path / "weights.pth")
        with pytest.raises(InputError) as caught:
            loaded(recipe, str(tmp_path / "weights.pth"))
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in ("weights.pth", *words)), str(caught.value)

    refused(
        {key: value for key, value in resnet.items() if key != "layer3.0.conv1.weight"}, "layer3.0.conv1.weight", "1 of"
    )
    refused({**resnet, "conv1.weight": torch.zeros(64, 3, 3, 3)}, "conv1.weight", "[64, 3, 3, 3]", "[64, 3, 7, 7]")
    refused({**resnet, "layer5.weight": torch.zeros(1)}, "layer5.weight", "not a key")
    settings = recipe.finetune.model_copy(update={"engine": "torchvision"})
    other = build_engine_detector(recipe.model_copy(update={"finetune": settings}), CLASSES)
    refused(other.state_dict(), "rpn.head.", "the engine torchvision trained", "set finetune.engine to torchvision")


def test_masks_are_drawn_as_detectron2_draws_them() -> None:
    from detectron2.structures import BitMasks, PolygonMasks

    from soco_core.detection.detectron2_engine.adapter import DrawnMasks

    polygons: Any = [mask for target in objects() for mask in target["masks"]]
    boxes = torch.cat([target["boxes"] for target in objects()]) + torch.tensor([-4.0, 3.0, 5.0, 7.0])
    bitmaps: Any = [np.zeros((160, 180), np.uint8) for _ in polygons]
    for number, bitmap in enumerate(bitmaps):
        bitmap[10 + number : 90, 12 : 60 + 7 * number] = 1
    expected = PolygonMasks(polygons).crop_and_resize(boxes, 28)
    drawn = DrawnMasks(polygons).crop_and_resize(boxes, 28)
    assert 0.1 < drawn.mean() < 0.9
    assert torch.equal(drawn, expected.float())
    stacked = BitMasks(torch.from_numpy(np.stack(bitmaps)))
    pooled = stacked.crop_and_resize(boxes, 28)
    assert torch.equal(DrawnMasks(bitmaps).crop_and_resize(boxes, 28), pooled.float())
    mixed = DrawnMasks([*polygons[:2], *bitmaps[2:]])
    chosen = torch.tensor([3, 1, 1])
    assert torch.equal(mixed[chosen].crop_and_resize(boxes[chosen], 28)[1:], expected[chosen[1:]].float())
    assert torch.equal(mixed[torch.arange(5) > 2].crop_and_resize(boxes[3:], 28), pooled[3:].float())
    assert len(mixed[chosen]) == 3


@pytest.mark.parametrize("detector", ["mask-rcnn-fpn", "faster-rcnn-c4"])
def test_proposals_that_are_not_finite_are_a_loss_that_is_not(detector: str, data: str, tmp_path: Path) -> None:
    model: Any = build_engine_detector(tiny(detector), CLASSES)
    names = list(model(pictures(), objects()))
    nn.init.constant_(model.proposal_generator.rpn_head.anchor_deltas.bias, math.nan)
    losses = model(pictures(), objects())
    assert list(losses) == names
    assert all(loss.isnan() for loss in losses.values())
    recipe = tiny(detector, "finetune.learning_rate=1.0e+12", "finetune.warmup_iterations=0", "finetune.iterations=6")
    with pytest.raises(SocoError, match=r"the loss is not finite at step \d+ \(images"):
        finetune(recipe, coco=data, init="scratch", output=str(tmp_path))


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_norm_is_replaced_for_several_processes(detector: str) -> None:
    model = build_engine_detector(tiny(detector), CLASSES)
    keys = list(model.state_dict())
    before = [type(module) for module in model.modules() if isinstance(module, _BatchNorm)]
    assert set(before) <= {nn.BatchNorm2d, *nn.BatchNorm2d.__subclasses__()}
    synchronise_batch_norm(model, torch.device("cpu"), None)
    after = [type(module) for module in model.modules() if isinstance(module, _BatchNorm)]
    assert after == [CpuSyncBatchNorm] * len(before)
    assert list(model.state_dict()) == keys

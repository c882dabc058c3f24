"""What each kind of detector takes of what was pretrained, for it or for another kind, and what it says of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from soco_core.artifacts.initialisation import find_initialisation
from soco_core.artifacts.weights import Coverage, save_weights
from soco_core.config import Recipe
from soco_core.convert.export import Export, export, split_pretrained
from soco_core.detection.model import build_detector
from soco_core.detection.weights import load_initialisation
from soco_core.models.soco import OnlineNetwork
from soco_core.recipes import parse_recipe

FPN = "model: {backbone: resnet18, fpn_channels: 32, head_convs: 2, head_fc_size: 24, hidden_size: 16}"
C4 = "model: {architecture: c4, backbone: resnet18, roi_size: 14, hidden_size: 16}"
NO_PYRAMID = "model: {backbone: resnet18, use_fpn: false, use_head: false, scale_aware: false, hidden_size: 16}"
DENSE = ["retinanet", "fcos"]
ON_C4 = ["mask-rcnn-c4", "faster-rcnn-c4"]


def pretrained(recipe: Recipe) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    torch.manual_seed(3)
    return split_pretrained(OnlineNetwork(recipe.model).state_dict(), "test")


def loaded(recipe: Recipe, detector: str, path: Path) -> tuple[nn.Module, Coverage]:
    settings = recipe.finetune.model_copy(update={"detector": detector, "mask_convs": 1, "mask_channels": 8})
    torch.manual_seed(4)
    model = build_detector(recipe.model_copy(update={"finetune": settings}), 3)
    coverage = load_initialisation(model, find_initialisation(str(path)))
    assert {*coverage.loaded.values(), *coverage.newly_initialised} == set(model.state_dict())
    return model, coverage


def write(kind: str, recipe: Recipe, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The weights under soco's own names, or as `convert` writes them for two stages; and the canonical ones."""
    canonical, left_out = pretrained(recipe)
    if kind == "canonical":
        save_weights(folder / "canonical.safetensors", canonical, {})
        return folder / "canonical.safetensors", canonical
    target: Any = kind
    tensors, _ = export(canonical, Export(target, recipe.model.architecture), recipe.model, left_out)
    torch.save({"model": tensors} if kind == "detectron2" else tensors, folder / "weights.pth")
    return folder / "weights.pth", canonical


@pytest.mark.parametrize("kind", ["canonical", "torchvision", "detectron2"])
@pytest.mark.parametrize("detector", DENSE)
def test_dense_detectors_take_backbone_and_p3_to_p5(kind: str, detector: str, tmp_path: Path) -> None:
    recipe = parse_recipe(FPN)
    path, canonical = write(kind, recipe, tmp_path)
    model, coverage = loaded(recipe, detector, path)
    state = model.state_dict()
    taken = 0
    for key, value in canonical.items():
        part, _, rest = key.partition(".")
        if part == "encoder":
            assert torch.equal(state[f"backbone.body.{rest}"], value)
            taken += 1
        elif part == "neck" and ".0." not in rest:
            block, number, layer, parameter = rest.split(".")
            name = {"lateral_convs": "inner_blocks", "fpn_convs": "layer_blocks"}[block]
            place = f"backbone.fpn.{name}.{int(number) - 1}.{('conv', 'bn').index(layer)}.{parameter}"
            assert torch.equal(state[place], value), key
            taken += 1
    assert len(coverage.loaded) == taken
    assert len(coverage.left_out) == len(canonical) - taken
    reasons = set(coverage.left_out.values())
    assert reasons == {
        "pyramid level P2: that of RetinaNet and FCOS begins at P3",
        "box head: RetinaNet and FCOS have none",
    }
    assert all(key.startswith(("backbone.fpn.extra_blocks.", "head.")) for key in coverage.newly_initialised)


@pytest.mark.parametrize("detector", DENSE)
def test_what_was_exported_for_dense_detectors_is_not_shifted_again(detector: str, tmp_path: Path) -> None:
    recipe = parse_recipe(FPN)
    canonical, left_out = pretrained(recipe)
    tensors, _ = export(canonical, Export("torchvision", "dense"), recipe.model, left_out)
    torch.save(tensors, tmp_path / "torchvision-dense.pth")
    model, coverage = loaded(recipe, detector, tmp_path / "torchvision-dense.pth")
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in tensors.items())
    assert coverage.loaded == {key: key for key in tensors}
    assert not coverage.left_out
    torch.save(state, tmp_path / "finetuned.pth")
    _, again = loaded(recipe, detector, tmp_path / "finetuned.pth")
    assert not again.newly_initialised


def test_what_was_exported_for_dense_detectors_fills_p3_to_p5_of_mask_rcnn(tmp_path: Path) -> None:
    recipe = parse_recipe(FPN)
    canonical, left_out = pretrained(recipe)
    tensors, _ = export(canonical, Export("torchvision", "dense"), recipe.model, left_out)
    torch.save(tensors, tmp_path / "torchvision-dense.pth")
    model, coverage = loaded(recipe, "mask-rcnn-fpn", tmp_path / "torchvision-dense.pth")
    found = model.state_dict()["backbone.fpn.inner_blocks.3.0.weight"]
    assert torch.equal(found, canonical["neck.lateral_convs.3.conv.weight"])
    assert "backbone.fpn.inner_blocks.0.0.weight" in coverage.newly_initialised


@pytest.mark.parametrize("kind", ["canonical", "torchvision", "detectron2"])
@pytest.mark.parametrize("detector", ON_C4)
def test_soco_c4_fills_the_c4_detectors(kind: str, detector: str, tmp_path: Path) -> None:
    recipe = parse_recipe(C4)
    path, canonical = write(kind, recipe, tmp_path)
    model, coverage = loaded(recipe, detector, path)
    state = model.state_dict()
    assert all(torch.equal(state[key.replace("encoder.", "backbone.body.")], value) for key, value in canonical.items())
    assert "backbone.body.layer4.1.bn2.running_var" in coverage.loaded.values()
    assert len(coverage.loaded) == len(canonical)
    assert not coverage.left_out
    assert all(key.startswith(("rpn.", "roi_heads.")) for key in coverage.newly_initialised)
    assert "roi_heads.box_head.norm.weight" in coverage.newly_initialised


@pytest.mark.parametrize("kind", ["canonical", "torchvision", "detectron2"])
def test_a_c4_detector_takes_the_backbone_alone_of_an_fpn_s_pretraining(kind: str, tmp_path: Path) -> None:
    recipe = parse_recipe(FPN)
    path, canonical = write(kind, recipe, tmp_path)
    model, coverage = loaded(recipe, "mask-rcnn-c4", path)
    state = model.state_dict()
    encoder = {key: value for key, value in canonical.items() if key.startswith("encoder.")}
    assert all(torch.equal(state[key.replace("encoder.", "backbone.body.")], value) for key, value in encoder.items())
    assert len(coverage.loaded) == len(encoder)
    assert len(coverage.left_out) == len(canonical) - len(encoder)
    assert set(coverage.left_out.values()) == {
        "FPN: a C4 detector has none",
        "box head: that of a C4 detector is the fifth residual block",
    }


@pytest.mark.parametrize("detector", ["mask-rcnn-fpn", *DENSE, *ON_C4])
def test_a_backbone_alone_fills_every_detector(detector: str, tmp_path: Path) -> None:
    recipe = parse_recipe(NO_PYRAMID)
    path, canonical = write("torchvision", recipe, tmp_path)
    _, coverage = loaded(recipe, detector, path)
    assert len(coverage.loaded) == len(canonical) == 120
    assert not coverage.left_out


def test_a_finetuned_detector_s_other_parts_are_refused_by_another_kind(tmp_path: Path) -> None:
    from soco_core.errors import InputError

    recipe = parse_recipe(FPN)
    torch.save(build_detector(recipe, 3).state_dict(), tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"rpn\.head\.\S+ is not a key of the recipe's detector"):
        loaded(recipe, "retinanet", tmp_path / "model.pth")

from __future__ import annotations

import pickle
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from soco_core.artifacts.initialisation import find_initialisation
from soco_core.artifacts.result import locate, writing
from soco_core.artifacts.weight_names import to_target
from soco_core.convert.export import Export, export, split_pretrained
from soco_core.detection.model import build_detector
from soco_core.detection.weights import load_initialisation
from soco_core.errors import InputError
from soco_core.models.soco import OnlineNetwork
from soco_core.recipes import parse_recipe

SMALL = parse_recipe(
    "model: {backbone: resnet18, fpn_channels: 16, head_convs: 1, head_fc_size: 24}\n"
    "finetune: {mask_convs: 1, mask_channels: 8}"
)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return build_detector(SMALL, 3)


@pytest.fixture
def resnet():
    torch.manual_seed(2)
    return resnet18().state_dict()


def write(folder, kind, tensors):
    if kind == "safetensors":
        save_file(tensors, folder / "weights.safetensors")
        return str(folder / "weights.safetensors")
    if kind == "plain":
        torch.save(tensors, folder / "weights.pth")
        return str(folder / "weights.pth")
    content = {
        "state_dict": {"state_dict": {f"module.{key}": value for key, value in tensors.items()}, "epoch": 3},
        "model": {"model": tensors},
    }[kind]
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("kind", ["plain", "state_dict", "model", "safetensors"])
def test_a_resnet_file_fills_the_backbone_and_its_classifier_is_left_out(tmp_path, model, resnet, kind):
    start = find_initialisation(write(tmp_path, kind, resnet))
    assert start.method == "Supervised"
    coverage = load_initialisation(model, start)
    state = model.state_dict()
    assert all(torch.equal(state[f"backbone.body.{key}"], value) for key, value in resnet.items() if key[:3] != "fc.")
    assert len(coverage.loaded) == 120
    assert {key.removeprefix("module.") for key in coverage.left_out} == {"fc.weight", "fc.bias"}
    assert len(coverage.loaded) + len(coverage.newly_initialised) == len(state)
    assert not any(key.startswith("backbone.body.") for key in coverage.newly_initialised)


def test_scratch_loads_nothing(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    coverage = load_initialisation(model, find_initialisation("scratch"))
    assert not coverage.loaded
    assert set(coverage.newly_initialised) == set(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_converted_weights_fill_backbone_pyramid_and_box_head(tmp_path, model):
    torch.manual_seed(3)
    other = build_detector(SMALL, 9).state_dict()
    parts = ("backbone.", "roi_heads.box_head.")
    pretrained = {key: value for key, value in other.items() if key.startswith(parts)}
    result = locate(str(tmp_path), "convert", 1, SMALL, ("model",), {})
    with writing(result, SMALL):
        torch.save(pretrained, result.path / "torchvision.pth")
        result.finish({})
    start = find_initialisation(result.uri, "torchvision.pth")
    assert (start.method, start.fingerprint) == ("SoCo", result.fingerprint)
    coverage = load_initialisation(model, start)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in pretrained.items())
    assert set(coverage.loaded) == set(pretrained)
    assert all(
        key.startswith(("rpn.", "roi_heads.box_predictor", "roi_heads.mask_")) for key in coverage.newly_initialised
    )


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, model, resnet):
    def refused(tensors, *words):
        with pytest.raises(InputError) as caught:
            load_initialisation(model, find_initialisation(write(tmp_path, "plain", tensors)))
        text = str(caught.value)
        assert "\n" not in text
        assert all(word in text for word in ("weights.pth", *words)), text

    gone = dict(resnet)
    del gone["layer3.0.conv1.weight"]
    refused(gone, "layer3.0.conv1.weight", "1 of the backbone's keys")
    refused({**resnet, "conv1.weight": torch.zeros(64, 3, 3, 3)}, "conv1.weight", "[64, 3, 3, 3]", "[64, 3, 7, 7]")
    refused({**resnet, "layer5.weight": torch.zeros(1)}, "layer5.weight", "not a key")
    refused({"epoch": 3}, "no tensors")
    refused([1, 2], "a list")
    (tmp_path / "weights.pth").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not readable as PyTorch weights"):
        load_initialisation(model, find_initialisation(str(tmp_path / "weights.pth")))
    before = model.state_dict()["backbone.body.conv1.weight"].clone()
    assert torch.equal(model.state_dict()["backbone.body.conv1.weight"], before)


def test_a_place_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder; give `scratch`"):
        find_initialisation(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="not a finished result"):
        find_initialisation(str(tmp_path))


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_converted_weights_under_detectron2s_names_are_the_same(tmp_path, model, suffix):
    """What `convert` writes for detectron2, and the same as detectron2's own tools write it: a pickle of arrays."""
    torch.manual_seed(4)
    canonical, left_out = split_pretrained(OnlineNetwork(SMALL.model).state_dict(), "test")
    files = {}
    for target in ("torchvision", "detectron2"):
        tensors, _ = export(canonical, Export(target, "fpn"), SMALL.model, left_out)
        files[target] = tensors
    path = tmp_path / f"detectron2.{suffix}"
    if suffix == "pth":
        torch.save({"model": files["detectron2"]}, path)
    else:
        arrays = {key: value.numpy() for key, value in files["detectron2"].items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "soco", "matching_heuristics": True}, 2))
    coverage = load_initialisation(model, find_initialisation(str(path)))
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in files["torchvision"].items())
    assert set(coverage.loaded) == set(files["detectron2"])
    assert set(coverage.loaded.values()) == set(files["torchvision"])


def test_a_classifier_of_detectron2s_model_zoo_fills_the_backbone(tmp_path, model, resnet):
    """As detectron2's tool names torchvision's ResNet, with arrays."""

    def named(key):
        if key.startswith("fc."):
            return f"stem.{key}"
        for j in (1, 2, 3):
            key = key.replace(f"bn{j}", f"conv{j}.norm")
        for stage in (4, 3, 2, 1):
            key = key.replace(f"layer{stage}", f"res{stage + 1}")
        key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        return key if key.startswith("res") else f"stem.{key}"

    arrays = {named(key): value.numpy() for key, value in resnet.items() if not key.endswith("num_batches_tracked")}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    coverage = load_initialisation(model, find_initialisation(str(path)))
    state = model.state_dict()
    for key, value in resnet.items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(state[f"backbone.body.{key}"], value), key
    assert set(coverage.left_out) == {"stem.fc.weight", "stem.fc.bias"}


def test_a_detector_of_detectron2s_model_zoo_is_refused(tmp_path, model, resnet):
    """It fits, but its stride and its colours are others."""
    names = {key: to_target(f"encoder.{key}", "detectron2", 1, "fpn") for key in resnet if not key.startswith("fc.")}
    arrays = {name: resnet[key].numpy() for key, name in names.items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    with pytest.raises(InputError, match=r"model_final\.pkl: a detector of detectron2's model zoo, trained on BGR"):
        load_initialisation(model, find_initialisation(str(path)))
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    load_initialisation(model, find_initialisation(str(path)))


def test_a_whole_detector_of_detectron2_is_refused_by_the_key_that_does_not_fit(tmp_path, model):
    canonical, left_out = split_pretrained(OnlineNetwork(SMALL.model).state_dict(), "test")
    tensors, _ = export(canonical, Export("detectron2", "fpn"), SMALL.model, left_out)
    tensors["proposal_generator.rpn_head.conv.weight"] = torch.zeros(1)
    torch.save({"model": tensors}, tmp_path / "model_final.pth")
    with pytest.raises(InputError, match=r"proposal_generator.rpn_head.conv.weight is not a key of the recipe's"):
        load_initialisation(model, find_initialisation(str(tmp_path / "model_final.pth")))


def test_weights_with_settings_beside_them_are_read(tmp_path, model, resnet):
    content = {"opt": Namespace(lr=0.1), "model": {f"module.{key}": value for key, value in resnet.items()}}
    torch.save({**content, "best": np.float64(0.5)}, tmp_path / "weights.pth")
    assert len(load_initialisation(model, find_initialisation(str(tmp_path / "weights.pth"))).loaded) == 120

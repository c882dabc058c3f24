from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model
from torchvision.ops import MultiScaleRoIAlign

from soco_core.artifacts.result import locate, writing
from soco_core.artifacts.unpickle import load_foreign
from soco_core.artifacts.weights import load_canonical
from soco_core.config import ModelConfig, Recipe
from soco_core.convert.stage import convert
from soco_core.errors import InputError
from soco_core.models.soco import OnlineNetwork

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]


def pretrained_result(folder: Path, recipe: Recipe, tensors: dict[str, torch.Tensor]) -> str:
    result = locate(str(folder), "pretrain", 1, recipe, ("model",), {})
    with writing(result, recipe):
        save_file(tensors, result.path / "pretrained.safetensors")
        result.finish({})
    return result.uri


def test_the_stage_writes_all_exports(tmp_path: Path, network: Network, small_model: ModelConfig) -> None:
    recipe = Recipe(model=small_model)
    tensors = network(small_model)
    result = convert(recipe, pretrained=pretrained_result(tmp_path, recipe, tensors), output=str(tmp_path))

    canonical = load_canonical(result.path / "canonical.safetensors")
    assert all(torch.equal(value, tensors[key]) for key, value in canonical.items())
    flat = torch.load(result.path / "torchvision.pth", weights_only=True)
    nested = torch.load(result.path / "detectron2.pth", weights_only=True)
    assert nested.keys() == {"model"}
    assert torch.equal(flat["backbone.fpn.layer_blocks.3.0.weight"], tensors["neck.fpn_convs.3.conv.weight"])
    assert torch.equal(nested["model"]["backbone.fpn_output5.weight"], tensors["neck.fpn_convs.3.conv.weight"])
    assert len(flat) == len(nested["model"]) == len(canonical)

    arrays = load_foreign(result.path / "detectron2.pkl")["model"]
    assert arrays.keys() == nested["model"].keys()
    assert (arrays["backbone.fpn_output5.weight"] == nested["model"]["backbone.fpn_output5.weight"].numpy()).all()
    mmdetection = torch.load(result.path / "mmdetection.pth", weights_only=True)["state_dict"]
    assert torch.equal(mmdetection["neck.fpn_convs.3.conv.weight"], tensors["neck.fpn_convs.3.conv.weight"])
    dense = torch.load(result.path / "mmdetection-dense.pth", weights_only=True)["state_dict"]
    assert torch.equal(dense["neck.fpn_convs.2.conv.weight"], tensors["neck.fpn_convs.3.conv.weight"])

    for target in ("torchvision", "detectron2", "mmdetection"):
        for name in (target, f"{target}-dense"):
            coverage = json.loads((result.path / f"{name}.coverage.json").read_text())
            assert coverage["loaded"].keys() | coverage["left_out"].keys() == tensors.keys()
            assert result.summary[name]["loaded"] == len(coverage["loaded"])
        assert result.summary[target]["loaded"] == len(canonical)
    assert result.summary["keys"] == len(tensors)
    assert (result.path / "coverage.md").exists()


def test_a_c4_pretraining_becomes_a_c4_detector(
    tmp_path: Path, network: Network, model_of: Callable[[str], ModelConfig]
) -> None:
    recipe = Recipe(model=model_of("c4"))
    tensors = network(recipe.model)
    result = convert(recipe, pretrained=pretrained_result(tmp_path, recipe, tensors), output=str(tmp_path))
    canonical = load_canonical(result.path / "canonical.safetensors")
    assert {key.partition(".")[0] for key in canonical} == {"encoder"}
    assert any(key.startswith("encoder.layer4.") for key in canonical)
    nested = torch.load(result.path / "detectron2.pth", weights_only=True)["model"]
    assert torch.equal(nested["roi_heads.res5.1.conv2.weight"], tensors["encoder.layer4.1.conv2.weight"])
    assert torch.equal(nested["backbone.res4.1.conv2.weight"], tensors["encoder.layer3.1.conv2.weight"])
    flat = torch.load(result.path / "torchvision.pth", weights_only=True)
    resnet = get_model(recipe.model.backbone)
    plain = {key.removeprefix("backbone.body."): value for key, value in flat.items()}
    assert resnet.load_state_dict(plain, strict=False).missing_keys == ["fc.weight", "fc.bias"]
    page = (result.path / "coverage.md").read_text()
    assert all(f"`{key}`" in page for key in tensors)


def test_incomplete_weights_give_one_line_and_no_result(
    tmp_path: Path, network: Network, small_model: ModelConfig
) -> None:
    recipe = Recipe(model=small_model)
    tensors = network(small_model)
    del tensors["encoder.layer4.1.bn2.running_mean"]
    with pytest.raises(InputError) as caught:
        convert(recipe, pretrained=pretrained_result(tmp_path, recipe, tensors), output=str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("convert/*/done.json"))


def test_a_result_of_another_stage_is_refused(tmp_path: Path, network: Network, small_model: ModelConfig) -> None:
    recipe = Recipe(model=small_model)
    uri = pretrained_result(tmp_path, recipe, network(small_model))
    converted = convert(recipe, pretrained=uri, output=str(tmp_path))
    with pytest.raises(InputError, match="a result of `convert`, but one of `pretrain` or `import` is needed"):
        convert(recipe, pretrained=converted.uri, output=str(tmp_path))


@pytest.mark.parametrize("training", [False, True])
def test_moved_weights_compute_the_same(
    tmp_path: Path,
    small_model: ModelConfig,
    training: bool,
    torchvision_detector: Callable[[ModelConfig], torch.nn.Module],
) -> None:
    recipe = Recipe(model=small_model)
    torch.manual_seed(1)
    ours = OnlineNetwork(small_model).train(training)
    result = convert(
        recipe,
        pretrained=pretrained_result(tmp_path, recipe, {k: v.clone() for k, v in ours.state_dict().items()}),
        output=str(tmp_path),
    )
    theirs = torchvision_detector(small_model).to_empty(device="cpu").train(training)
    theirs.load_state_dict(torch.load(result.path / "torchvision.pth", weights_only=True))

    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        pyramid = ours.neck(ours.encoder(images))
        other = theirs.backbone(images)
        for level, features in zip(("0", "1", "2", "3"), pyramid, strict=True):
            torch.testing.assert_close(other[level], features, rtol=0, atol=1e-5)
        boxes = [torch.tensor([[4.0, 8.0, 60.0, 70.0]]), torch.tensor([[0.0, 0.0, 95.0, 95.0]])]
        regions = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(other, boxes, [(96, 96)] * 2)
        torch.testing.assert_close(theirs.roi_heads.box_head(regions), ours.head(regions), rtol=0, atol=1e-5)

"""Whatever the file's names, the same backbone; and every key has its line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torchvision

from soco_core.artifacts.initialisation import find_initialisation
from soco_core.artifacts.weight_names import to_target
from soco_core.artifacts.weights import save_weights
from soco_core.errors import InputError
from soco_core.linear.weights import load_backbone
from soco_core.models.backbone import Encoder

OTHERS = {"head.fc1.weight": torch.zeros(2, 2), "neck.lateral_convs.0.conv.weight": torch.zeros(2, 2, 1, 1)}


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    return {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def canonical(resnet: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"encoder.{key}": value for key, value in resnet.items() if not key.startswith("fc.")}


def named(resnet: dict[str, torch.Tensor], target: str, detector: str) -> dict[str, torch.Tensor]:
    return {to_target(key, target, 0, detector): value for key, value in canonical(resnet).items()}  # type: ignore[arg-type, misc]


def write(path: Path, tensors: object) -> str:
    torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        ("torchvision", {"fc.weight", "fc.bias"}),
        ("ddp", {"module.fc.weight", "module.fc.bias"}),
        ("canonical", set(OTHERS)),
        ("torchvision-detector", {"roi_heads.box_head.1.weight"}),
        ("detectron2", set()),
        ("detectron2-c4", set()),
        ("detectron2-classifier", {"stem.fc.weight"}),
    ],
)
def test_every_layout_gives_the_same_backbone(
    kind: str, left_out: set[str], resnet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    extra = {key: torch.zeros(2) for key in left_out}
    if kind == "canonical":
        path = tmp_path / "weights.safetensors"
        save_weights(path, canonical(resnet) | OTHERS, {})
    elif kind == "torchvision":
        write(path, resnet)
    elif kind == "ddp":
        write(path, {"state_dict": {f"module.{key}": value for key, value in resnet.items()}})
    elif kind == "torchvision-detector":
        write(path, named(resnet, "torchvision", "fpn") | extra)
    elif kind == "detectron2":
        write(path, {"model": named(resnet, "detectron2", "fpn")})
    elif kind == "detectron2-c4":
        write(path, {"model": named(resnet, "detectron2", "c4")})
    else:
        bare = {
            key.removeprefix("backbone.bottom_up."): value for key, value in named(resnet, "detectron2", "fpn").items()
        }
        write(path, {"model": {key: value.numpy() for key, value in (bare | extra).items()}})
    encoder = Encoder("resnet18")
    coverage = load_backbone(encoder, find_initialisation(str(path)))
    own = encoder.state_dict()
    assert all(torch.equal(own[key.removeprefix("encoder.")], value) for key, value in canonical(resnet).items())
    assert set(coverage.left_out) == left_out
    assert set(coverage.loaded.values()) == set(canonical(resnet))
    assert coverage.newly_initialised == {}


def test_a_missing_key_and_another_shape_are_refused(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    lacking = {key: value for key, value in resnet.items() if key != "layer3.0.bn1.running_mean"}
    with pytest.raises(InputError, match=r"lacking\.pth: has no layer3\.0\.bn1\.running_mean \(1 of the backbone's"):
        load_backbone(Encoder("resnet18"), find_initialisation(write(tmp_path / "lacking.pth", lacking)))
    counting = {key: value for key, value in resnet.items() if not key.endswith("num_batches_tracked")}
    coverage = load_backbone(Encoder("resnet18"), find_initialisation(write(tmp_path / "old.pth", counting)))
    assert set(coverage.newly_initialised.values()) == {"a counter without effect"}
    origin = find_initialisation(write(tmp_path / "18.pth", resnet))
    with pytest.raises(InputError, match=r"18\.pth: .* has shape .*, the recipe's model.backbone needs"):
        load_backbone(Encoder("resnet50"), origin)
    with pytest.raises(InputError, match="holds no tensors"):
        load_backbone(Encoder("resnet18"), find_initialisation(write(tmp_path / "none.pth", {"epoch": 3})))
    with pytest.raises(InputError, match=r"has no conv1\.weight"):
        load_backbone(Encoder("resnet18"), find_initialisation(write(tmp_path / "other.pth", {"a.b": torch.zeros(1)})))


def test_scratch_is_not_trained_and_says_so() -> None:
    encoder = Encoder("resnet18")
    origin = find_initialisation("scratch")
    assert (origin.method, origin.path) == ("Scratch", None)
    assert set(load_backbone(encoder, origin).newly_initialised) == {f"encoder.{key}" for key in encoder.state_dict()}


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--init nowhere\.pth: no such file or folder; give `scratch`"):
        find_initialisation("nowhere.pth")
    with pytest.raises(InputError, match="not a finished result"):
        find_initialisation(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"__author__": "Detectron2 Model Zoo"}, "a detector of detectron2's model zoo, trained on BGR"),
        ({"conv1_w": torch.zeros(1).numpy()}, r"a ResNet of Caffe2 \(it has conv1_w\), trained on BGR"),
    ],
)
def test_a_network_that_computes_something_else_from_its_numbers_is_refused(
    content: dict[str, object], words: str, resnet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    arrays = {key: value.numpy() for key, value in named(resnet, "detectron2", "fpn").items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, **content}))
    with pytest.raises(InputError, match=words):
        load_backbone(Encoder("resnet18"), find_initialisation(str(path)))

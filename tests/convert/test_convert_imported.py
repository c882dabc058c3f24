"""Another method's imported weights, exported to the other frameworks' detectors as a pretraining's are."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from soco_core.artifacts.initialisation import find_initialisation
from soco_core.artifacts.result import ResultDirectory
from soco_core.artifacts.weights import load_canonical
from soco_core.config import ModelConfig, Recipe
from soco_core.convert.import_stage import import_foreign
from soco_core.convert.stage import convert
from soco_core.errors import InputError
from soco_core.models.soco import ObjectEncoder

Convert = Callable[..., tuple[ResultDirectory, dict[str, torch.Tensor]]]
SMALL = {"backbone": "resnet18", "fpn_channels": 16, "head_convs": 2, "head_fc_size": 32}
FPN = ModelConfig.model_validate(SMALL)
C4 = ModelConfig.model_validate({**SMALL, "architecture": "c4", "roi_size": 14})
# detectron2's C4 head is made of blocks of three convolutions.
C4_R50 = C4.model_copy(update={"backbone": "resnet50"})
TARGETS = ("torchvision", "detectron2", "mmdetection")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Import a release and convert it, each once; with the release's numbers under canonical names."""

    @cache
    def make(model: ModelConfig, layout: str = "moco-v2") -> tuple[ResultDirectory, dict[str, torch.Tensor]]:
        folder = tmp_path_factory.mktemp("converted")
        torch.manual_seed(0)
        own = {
            key: torch.rand(value.shape) if value.is_floating_point() else torch.tensor(7)
            for key, value in ObjectEncoder(model).state_dict().items()
            if not key.startswith("projector.")
        }
        backbone = {key: value for key, value in own.items() if key.startswith("encoder.")}
        renamed = {f"module.encoder_q.{key.removeprefix('encoder.')}": value for key, value in backbone.items()}
        content: dict[str, Any] = {"state_dict": {**renamed, "module.encoder_q.fc.2.weight": torch.zeros(4, 4)}}
        if layout == "soco":
            content = {"model": {f"module.{key}": value for key, value in own.items()}}
        if layout == "detectron2":
            counted = {key: value for key, value in renamed.items() if not key.endswith("num_batches_tracked")}
            content["state_dict"] = {**counted, "module.encoder_q.fc.2.weight": torch.zeros(4, 4)}
        torch.save(content, folder / "release.pth.tar")
        recipe = Recipe(name="a-recipe", model=model)
        imported = import_foreign(recipe, weights=str(folder / "release.pth.tar"), output=str(folder))
        result = convert(recipe, pretrained=imported.uri, output=str(folder))
        return result, own if layout == "soco" else backbone

    return make


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (FPN, ("backbone.body.layer4.1", "backbone.bottom_up.res5.1.conv2.norm", "backbone.layer4.1.bn2")),
        (C4, ("backbone.body.layer4.1", "roi_heads.res5.1.conv2.norm", "roi_head.shared_head.layer4.1.bn2")),
    ],
    ids=["fpn", "c4"],
)
def test_the_backbone_goes_to_every_framework(
    model: ModelConfig, names: tuple[str, str, str], converted: Convert
) -> None:
    result, backbone = converted(model)
    assert result.summary["method"] == "MoCo v2"
    canonical = load_canonical(result.path / "canonical.safetensors")
    assert canonical.keys() == backbone.keys()
    assert all(torch.equal(value, backbone[key]) for key, value in canonical.items())
    torchvision, detectron2, mmdetection = (
        torch.load(result.path / f"{target}.pth", weights_only=True) for target in TARGETS
    )
    for tensors, name in zip((torchvision, detectron2["model"], mmdetection["state_dict"]), names, strict=True):
        key = f"{name}.bn2.running_var" if tensors is torchvision else f"{name}.running_var"
        assert torch.equal(tensors[key], backbone["encoder.layer4.1.bn2.running_var"])
        assert len(tensors) == len(backbone)


def test_fpn_and_box_head_start_from_scratch_and_the_reason_is_said(converted: Convert) -> None:
    result, backbone = converted(FPN)
    parts = {
        "torchvision": {"backbone.fpn.*", "roi_heads.box_head.*"},
        "mmdetection": {"neck.*", "roi_head.bbox_head.shared_convs.*", "roi_head.bbox_head.shared_fcs.*"},
        "detectron2": {f"backbone.fpn_{part}{i}.*" for part in ("lateral", "output") for i in range(2, 6)}
        | {"roi_heads.box_head.*"},
    }
    for target, expected in parts.items():
        coverage = json.loads((result.path / f"{target}.coverage.json").read_text())
        assert coverage["loaded"].keys() == backbone.keys()
        fresh = {key for key, reason in coverage["newly_initialised"].items() if "no such part" in reason}
        assert expected <= fresh
        assert not any(key.startswith("backbone.body") for key in fresh)
    page = (result.path / "coverage.md").read_text()
    assert "- `backbone.fpn.*`: trained from scratch: this pretraining had no such part" in page


def test_a_c4_detector_has_all_of_it(converted: Convert) -> None:
    result, backbone = converted(C4)
    for target in ("detectron2", "mmdetection"):
        coverage = json.loads((result.path / f"{target}.coverage.json").read_text())
        assert coverage["loaded"].keys() == backbone.keys()
        assert not any("this pretraining" in reason for reason in coverage["newly_initialised"].values())
    assert not list(result.path.glob("*-dense.pth"))


def test_the_authors_fpn_and_head_come_too(converted: Convert) -> None:
    result, own = converted(FPN, "soco")
    assert load_canonical(result.path / "canonical.safetensors").keys() == own.keys()
    for target in TARGETS:
        assert result.summary[target] == {"loaded": len(own), "left_out": 0, "newly_initialised": len_of_new(target)}
    card = (result.path / "torchvision.card.md").read_text()
    assert "SoCo (authors): backbone, FPN, box head of its release, under torchvision's names" in card


def len_of_new(target: str) -> int:
    """RPN, box predictor and mask head, as each names them."""
    return {"torchvision": 4, "detectron2": 3, "mmdetection": 4}[target]


def test_counters_that_the_release_lacks_start_at_0(converted: Convert) -> None:
    result, backbone = converted(FPN, "detectron2")
    canonical = load_canonical(result.path / "canonical.safetensors")
    assert canonical.keys() == backbone.keys()
    counters = {key for key in canonical if key.endswith("num_batches_tracked")}
    assert len(counters) == 20
    assert all(int(canonical[key]) == 0 for key in counters)


def test_the_card_says_whose_the_weights_are(converted: Convert) -> None:
    result, _ = converted(FPN)
    for card in sorted(result.path.glob("*.card.md")):
        text = card.read_text(encoding="utf-8")
        assert "MoCo v2: backbone of its release, under" in text
        assert "| release | `release.pth.tar`, SHA-256 `" in text
        assert "| layout | `moco-v2` |" in text
        assert "its licence holds for them here too" in text
        assert "pretrained without labels by SoCo" not in text
        assert "No key of the release says" in text


@pytest.mark.parametrize("name", ["torchvision", "torchvision-dense"])
def test_the_cards_lines_load_every_tensor(name: str, converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    state = run_card(converted(FPN)[0].path, name, monkeypatch)
    file = torch.load(f"{name}.pth", weights_only=True)
    assert all(torch.equal(state[key], value) for key, value in file.items())


@pytest.mark.detectron2
@pytest.mark.parametrize(("model", "name"), [(FPN, "detectron2"), (FPN, "detectron2-dense"), (C4_R50, "detectron2")])
def test_detectron2s_lines_load_every_tensor(
    model: ModelConfig, name: str, converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    result, backbone = converted(model)
    state = run_card(result.path, name, monkeypatch)
    file = torch.load(f"{name}.pth", weights_only=True)["model"]
    assert len(file) == len(backbone)
    assert all(torch.equal(state[key], value) for key, value in file.items())


def run_card(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Run a card's two blocks of lines beside its files; return the detector's state dict."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in (folder / f"{name}.card.md").read_text(encoding="utf-8").split("```python\n")[1:]:
        exec(block.partition("```")[0], names)
    return dict(names["model"].state_dict())


def test_a_detector_starts_from_it_as_the_imported_method(converted: Convert) -> None:
    start = find_initialisation(converted(FPN)[0].uri, "torchvision.pth")
    assert start.method == "MoCo v2"
    assert start.path is not None
    assert start.path.name == "torchvision.pth"


def test_another_models_recipe_is_refused(converted: Convert, tmp_path: Path) -> None:
    result, _ = converted(FPN, "soco")
    (imported,) = result.path.parents[1].glob("import/*")
    wider = Recipe(model=FPN.model_copy(update={"fpn_channels": 32}))
    with pytest.raises(InputError, match=r"has shape \[16.*\], the recipe's model has \[32"):
        convert(wider, pretrained=str(imported), output=str(tmp_path))
    with pytest.raises(InputError, match=r"keys are not the model's, the first is head\."):
        convert(Recipe(model=C4), pretrained=str(imported), output=str(tmp_path))

"""What was pretrained is what the detector computes with: the same numbers after export and loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from soco_core.artifacts.initialisation import find_initialisation
from soco_core.artifacts.result import locate, writing
from soco_core.artifacts.weights import PRETRAINED, save_weights
from soco_core.config import Recipe
from soco_core.convert.import_stage import import_foreign
from soco_core.convert.stage import convert
from soco_core.detection.model import build_detector
from soco_core.detection.weights import load_initialisation
from soco_core.errors import InputError
from soco_core.models.regions import assign_levels, pool_regions
from soco_core.models.soco import OnlineNetwork
from soco_core.recipes import load_recipe

SMALL = ["model.fpn_channels=32", "model.head_fc_size=48", "model.head_convs=2"]


def pretrained(recipe: Recipe, output: Path) -> tuple[OnlineNetwork, str]:
    """A network with batch-norm statistics of its own, stored as `pretrain` stores it."""
    torch.manual_seed(0)
    network = OnlineNetwork(recipe.model)
    # Otherwise every residual branch is multiplied by zero, and its weights could be anything.
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
        assert parameter.numel(), name
    with torch.no_grad():
        pyramid = network.features(torch.randn(4, 3, 128, 128))
        boxes = torch.tensor([[[8.0, 8.0, 100.0, 90.0], [20.0, 30.0, 50.0, 60.0]]]).expand(4, -1, -1)
        network.head(pool_regions(pyramid, boxes, assign_levels(boxes, recipe.model.level_limits), 7))
    result = locate(str(output), "pretrain", 1, recipe, ("model",), {})
    with writing(result, recipe):
        save_weights(result.path / PRETRAINED, network.state_dict(), {})
        result.finish({})
    return network.eval(), result.uri


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_pyramid_and_box_head_are_equal_in_the_detector(backbone: str, tmp_path: Path) -> None:
    recipe = load_recipe("demo", [*SMALL, f"model.backbone={backbone}"])
    network, uri = pretrained(recipe, tmp_path)
    converted = convert(recipe, pretrained=uri, output=str(tmp_path))
    detector = build_detector(recipe, num_classes=5).eval()
    coverage = load_initialisation(detector, find_initialisation(converted.uri, "torchvision.pth"))

    images = torch.randn(2, 3, 160, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = network.features(images)
        theirs = detector.backbone(images)
        for level, features in enumerate(ours):
            assert features.std() > 0.1
            torch.testing.assert_close(theirs[str(level)], features, atol=1e-5, rtol=1e-5)
        # A box that both networks pool from P4: its side is the detector's canonical size.
        side = float(recipe.finetune.canonical_box_size)
        x = 2.0
        box = torch.tensor([[[x, x, x + side, x + side]]]).expand(2, -1, -1)
        regions = pool_regions(ours, box, torch.full((2, 1), 2), recipe.model.roi_size)
        pooled = detector.roi_heads.box_roi_pool(theirs, list(box), [(160, 224)] * 2)
        torch.testing.assert_close(pooled, regions, atol=1e-5, rtol=1e-5)
        expected = network.head(regions)
        assert expected.std() > 0.01
        torch.testing.assert_close(detector.roi_heads.box_head(pooled), expected, atol=1e-5, rtol=1e-5)

    exported = {key for key in network.state_dict() if key.split(".")[0] in {"encoder", "neck", "head"}}
    assert len(coverage.loaded) == len(exported)
    assert set(coverage.loaded.values()) | set(coverage.newly_initialised) == set(detector.state_dict())
    assert not any(key.startswith(("backbone.", "roi_heads.box_head.")) for key in coverage.newly_initialised)


def test_another_methods_backbone_is_imported_and_is_the_detectors(tmp_path: Path) -> None:
    recipe = load_recipe("demo", [*SMALL, "model.backbone=resnet18"])
    torch.manual_seed(2)
    resnet = resnet18().state_dict()
    head = {"module.encoder_q.fc.weight": torch.zeros(4, 4)}
    moco = {f"module.encoder_q.{key}": value for key, value in resnet.items() if not key.startswith("fc.")} | head
    torch.save({"state_dict": moco}, tmp_path / "moco.pth.tar")
    start = find_initialisation(
        import_foreign(recipe, weights=str(tmp_path / "moco.pth.tar"), output=str(tmp_path)).uri
    )
    assert start.method == "MoCo"
    assert "moco.pth.tar" in start.description
    detector = build_detector(recipe, num_classes=5)
    coverage = load_initialisation(detector, start)
    state = detector.state_dict()
    assert len(coverage.loaded) == 120
    assert all(torch.equal(state[f"backbone.body.{key}"], value) for key, value in resnet.items() if key[:3] != "fc.")
    assert {key.split(".")[0] for key in coverage.newly_initialised} == {"backbone", "rpn", "roi_heads"}
    assert not any(key.startswith("backbone.body.") for key in coverage.newly_initialised)


def test_the_authors_weights_bring_pyramid_and_box_head(tmp_path: Path) -> None:
    recipe = load_recipe("demo", [*SMALL, "model.backbone=resnet18"])
    torch.manual_seed(3)
    online = OnlineNetwork(recipe.model).state_dict()
    theirs = {
        f"module.{key}": value for key, value in online.items() if not key.startswith(("projector.", "predictor."))
    }
    torch.save({"model": theirs | {"module.projector.linear1.weight": torch.zeros(4, 4)}}, tmp_path / "soco.pth")
    imported = import_foreign(recipe, weights=str(tmp_path / "soco.pth"), name="SoCo*", output=str(tmp_path))
    start = find_initialisation(imported.uri, "torchvision.pth")
    assert start.method == "SoCo*"
    detector = build_detector(recipe, num_classes=5)
    coverage = load_initialisation(detector, start)
    state = detector.state_dict()
    assert coverage.loaded.keys() == {key.removeprefix("module.") for key in theirs}
    assert all(torch.equal(state[name], online[key]) for key, name in coverage.loaded.items())
    assert not any(key.startswith(("backbone.", "roi_heads.box_head.")) for key in coverage.newly_initialised)


def test_a_result_of_another_stage_is_no_start(tmp_path: Path) -> None:
    recipe = load_recipe("demo", SMALL)
    _, uri = pretrained(recipe, tmp_path)
    with pytest.raises(InputError, match=r"a result of `pretrain`, but one of `convert` or `import` is needed"):
        find_initialisation(uri)

"""Which engine computes: what is asked for, or detectron2 where it is installed. Runs with and without it."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from soco_core.artifacts.initialisation import find_initialisation
from soco_core.detection.engines import (
    build_engine_detector,
    detectron2_available,
    engine_export,
    load_engine_initialisation,
    resolve_engine,
)
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe

SMALL = """
model: {backbone: resnet18, fpn_channels: 16, head_convs: 1, head_fc_size: 24}
finetune: {mask_convs: 1, mask_channels: 8}
"""


@pytest.fixture
def installed(monkeypatch):
    """Let detectron2 be installed, or not, as far as can be told without importing it."""

    def pretend(there: bool) -> None:
        spec = SimpleNamespace() if there else None
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: spec if name == "detectron2" else find(name, *rest)
        )

    return pretend


@pytest.mark.parametrize(
    ("asked", "there", "engine"),
    [
        ("auto", False, "torchvision"),
        ("auto", True, "detectron2"),
        ("torchvision", False, "torchvision"),
        ("torchvision", True, "torchvision"),
        ("detectron2", True, "detectron2"),
    ],
)
def test_the_engine_is_the_one_asked_for_or_detectron2_where_it_is(installed, asked, there, engine):
    installed(there)
    assert detectron2_available() is there
    recipe = parse_recipe(SMALL, [f"finetune.engine={asked}"])
    resolved = resolve_engine(recipe)
    assert resolved.finetune.engine == engine
    assert recipe.finetune.engine == asked
    changed = resolved.finetune.model_copy(update={"engine": asked})
    assert resolved.model_copy(update={"finetune": changed}) == recipe
    assert resolve_engine(resolved) == resolved
    assert engine_export(recipe) == f"{engine}.pth"


def test_detectron2_asked_for_and_missing_is_one_line_with_the_remedy(installed):
    installed(False)
    recipe = parse_recipe(SMALL, ["finetune.engine=detectron2"])
    for call in (resolve_engine, lambda recipe: build_engine_detector(recipe, 3)):
        with pytest.raises(InputError, match=r"finetune\.engine: detectron2 is not installed; install it .* or set"):
            call(recipe)


def test_a_detectron2_that_cannot_be_imported_is_one_line(installed, monkeypatch):
    installed(True)
    # None in sys.modules makes an import fail, as a library built for another torch does.
    for name in [name for name in sys.modules if "detectron2" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(InputError, match=r"installed but cannot be imported .* build it for the") as caught:
        build_engine_detector(parse_recipe(SMALL, ["finetune.engine=detectron2"]), 3)
    assert "\n" not in str(caught.value)


def test_without_detectron2_auto_is_torchvisions_detector(installed):
    installed(False)
    recipe = parse_recipe(SMALL)
    torch.manual_seed(0)
    model = build_engine_detector(recipe, 3)
    assert "backbone.body.conv1.weight" in model.state_dict()
    coverage = load_engine_initialisation(model, find_initialisation("scratch"), recipe)
    assert coverage.target == "torchvision Mask R-CNN"
    assert set(coverage.newly_initialised) == set(model.state_dict())

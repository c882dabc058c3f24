"""The mmdetection exports in the real models of mmcv-lite and mmdet; run where both are installed."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from soco_core.config import ModelConfig
from soco_core.convert.export import Export, export, split_pretrained
from soco_core.convert.files import write_export
from soco_core.convert.loading import loading_lines
from soco_core.models.soco import OnlineNetwork

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]
Models = Callable[[str], ModelConfig]

pytestmark = pytest.mark.mmdet
pytest.importorskip("mmcv")
pytest.importorskip("mmengine")

OPS = "mmcv.ops"


class StandIn(nn.Module):
    """In place of a compiled operator, which mmcv-lite is without: it can be built and derived from, not called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.output_size = options.get("output_size")


class Operators(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (StandIn,), {})
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == OPS or name.startswith(f"{OPS}."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Operators(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def operators() -> None:
    """mmdet imports all of mmcv's operators, whatever model it builds."""
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        for name in [name for name in sys.modules if name == OPS or name.startswith(f"{OPS}.")]:
            del sys.modules[name]
        sys.meta_path.insert(0, Finder())
    pytest.importorskip("mmdet")


def detector(each: Export, model: ModelConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """What the card's lines build and load, with the files in the working directory."""
    monkeypatch.chdir(folder)
    build, load = loading_lines(each, model, f"{each.name}.pth")
    names: dict[str, Any] = {}
    exec(build, names)
    exec(load, names)
    built: nn.Module = names["model"]
    return built


@pytest.mark.parametrize(
    ("detector_kind", "backbone"),
    [
        ("fpn", "resnet18"),
        ("fpn", "resnet50"),
        ("fpn", "resnext50_32x4d"),
        ("c4", "resnet18"),
        ("c4", "resnet50"),
        ("dense", "resnet50"),
    ],
)
def test_every_key_is_found_and_only_what_was_said_stays_fresh(
    detector_kind: Any, backbone: str, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = "c4" if detector_kind == "c4" else "fpn"
    sizes = {"fpn_channels": 32, "head_fc_size": 64, "roi_size": 14 if architecture == "c4" else 7}
    model = ModelConfig.model_validate({"backbone": backbone, "architecture": architecture, **sizes})
    each = Export("mmdetection", detector_kind)
    canonical, left_out = split_pretrained(network(model), "test")
    tensors, coverage = export(canonical, each, model, left_out)
    write_export(tmp_path, each, tensors)
    state = detector(each, model, tmp_path, monkeypatch).state_dict()
    assert all(torch.equal(state[key], value) for key, value in tensors.items())
    fresh = tuple(pattern.removesuffix("*") for pattern in coverage.newly_initialised)
    assert [key for key in state if key not in tensors and not key.startswith(fresh)] == []
    assert all(any(key.startswith(prefix) for key in state) for prefix in fresh)


@pytest.mark.parametrize("detector_kind", ["fpn", "dense"])
def test_the_pyramid_computes_what_was_pretrained(
    detector_kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = ModelConfig(backbone="resnet50", fpn_channels=32, head_fc_size=64, hidden_size=16, embedding_size=8)
    ours = OnlineNetwork(model)
    for parameter in ours.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter.data, 0.5, 1.0)
    each = Export("mmdetection", detector_kind)
    canonical, left_out = split_pretrained(ours.state_dict(), "test")
    write_export(tmp_path, each, export(canonical, each, model, left_out)[0])
    theirs = detector(each, model, tmp_path, monkeypatch).eval()
    ours.eval()
    images = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        levels = list(ours.features(images))
        found = theirs.neck(theirs.backbone(images))
    if detector_kind == "fpn":
        levels.append(nn.functional.max_pool2d(levels[-1], 1, stride=2))  # P6
    else:
        levels, found = levels[1:], found[:3]
    assert len(found) == len(levels)
    for expected, features in zip(levels, found, strict=True):
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)

"""Canonical weights through the files of every export and back: bit for bit, for the models of all recipes."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soco_core.artifacts.unpickle import load_foreign
from soco_core.artifacts.weight_names import to_canonical
from soco_core.config import ModelConfig
from soco_core.convert.export import Export, check_complete, export, exports_of, split_pretrained
from soco_core.convert.files import detectron2_pickle, file_names, write_export
from soco_core.convert.importing import import_weights
from soco_core.models.soco import OnlineNetwork
from soco_core.recipes import load_recipe, named_recipes

MODELS = {model.model_dump_json(): model for model in (load_recipe(name).model for name in named_recipes())}
BACKBONES = ("resnet18", "resnet50", "resnext50_32x4d")
INSIDE = {"torchvision": None, "detectron2": "model", "mmdetection": "state_dict"}


def random_network(model: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """All names of the network; each tensor has its number of dimensions but no more than two of anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        state = OnlineNetwork(model).state_dict()
    return {
        key: torch.randn([min(size, 2) for size in value.shape], generator=generator).to(value.dtype)
        for key, value in state.items()
    }


def read(path: Path, each: Export) -> dict[str, Any]:
    inside = INSIDE[each.target]
    content = load_foreign(path)
    return content if inside is None else content[inside]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(list(MODELS.values())),
    backbone=st.sampled_from(BACKBONES),
    head_convs=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_every_format_gives_the_weights_back_bit_for_bit(
    model: ModelConfig, backbone: str, head_convs: int, seed: int, tmp_path: Path
) -> None:
    model = model.model_copy(update={"backbone": backbone, "head_convs": head_convs})
    canonical, left_out = split_pretrained(random_network(model, seed), "test")
    for each in exports_of(model):
        tensors, coverage = export(canonical, each, model, left_out)
        write_export(tmp_path, each, tensors)
        for name in file_names(each):
            back = {}
            for key, value in read(tmp_path / name, each).items():
                back[to_canonical(key, each.target, head_convs, each.detector)] = torch.as_tensor(value)
            assert back.keys() == canonical.keys() - coverage.left_out.keys()
            for key, value in back.items():
                assert key is not None
                assert value.dtype == canonical[key].dtype
                assert torch.equal(value, canonical[key]), f"{name}: {key}"


def test_every_file_can_be_imported_again(
    kind: str,
    network: Callable[[ModelConfig], dict[str, torch.Tensor]],
    model_of: Callable[[str], ModelConfig],
    tmp_path: Path,
) -> None:
    model = model_of(kind)
    canonical, left_out = split_pretrained(network(model), "test")
    for each in exports_of(model):
        tensors, coverage = export(canonical, each, model, left_out)
        write_export(tmp_path, each, tensors)
        for name in file_names(each):
            imported = import_weights(tmp_path / name, model)
            assert imported.tensors.keys() == canonical.keys() - coverage.left_out.keys(), name
            for key, value in imported.tensors.items():
                assert torch.equal(value, canonical[key]), f"{name}: {key}"
            assert not imported.coverage.left_out
            # Complete, or with the reason why not: convert takes it, and P2 of RetinaNet and FCOS starts from scratch.
            check_complete(imported.tensors, model, name, imported=True)
            fresh = imported.coverage.newly_initialised
            assert fresh.keys() == canonical.keys() - imported.tensors.keys()
            assert all("P3" in fresh[key] for key in fresh if key.startswith("neck."))


@pytest.mark.parametrize("architecture", ["fpn", "c4"])
def test_the_exports_files(architecture: str) -> None:
    names = [name for each in exports_of(ModelConfig(architecture=architecture)) for name in file_names(each)]  # type: ignore[arg-type]
    two_stage = ["torchvision.pth", "detectron2.pth", "detectron2.pkl", "mmdetection.pth"]
    dense = ["torchvision-dense.pth", "detectron2-dense.pth", "mmdetection-dense.pth"]
    assert names == two_stage + (dense if architecture == "fpn" else [])


def test_the_pickle_is_what_detectron2_takes_for_its_own() -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(7)}
    data = detectron2_pickle(tensors)
    content = pickle.loads(data, encoding="latin1")
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] == "soco"
    assert content["matching_heuristics"] is True
    for key, value in tensors.items():
        assert type(content["model"][key]) is np.ndarray
        assert torch.equal(torch.as_tensor(content["model"][key]), value)
    opcodes = list(pickletools.genops(data))
    assert max(opcode.proto for opcode, _, _ in opcodes) == 2
    # What NumPy 1 knows too.
    named = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}

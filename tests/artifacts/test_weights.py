"""Canonical weights and coverage reports, read back by safetensors and json themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from soco_core.artifacts.weights import Coverage, load_canonical, save_weights
from soco_core.errors import InputError


def test_weights_come_back_bit_for_bit_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "canonical.safetensors"
    matrix = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "plain": matrix,
        "not contiguous": matrix.t(),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "scalar": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    save_weights(path, tensors, {"made_by": "a test"})
    loaded = load_canonical(path)
    assert set(loaded) == set(tensors)
    for key, value in tensors.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value.detach())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"made_by": "a test"}


def test_the_same_weights_and_metadata_give_the_same_bytes(tmp_path: Path) -> None:
    """The library would need luck for its own order of eight entries to come twice."""
    tensors = {"b": torch.ones(3), "a": torch.arange(5), "ü": torch.zeros(2, dtype=torch.bfloat16)}
    metadata = {f"key {number}": f'é "{number}"' for number in range(8)}
    files = [tmp_path / "first", tmp_path / "second"]
    for file in files:
        save_weights(file, tensors, metadata)
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], framework="pt") as file:
        assert file.metadata() == metadata
    loaded = load_canonical(files[0])
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())
    save_weights(files[0], tensors, {})
    assert all(torch.equal(load_canonical(files[0])[key], value) for key, value in tensors.items())


def test_what_is_not_safetensors_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_weights(whole, {"a": torch.ones(100)}, {})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-10])
    (tmp_path / "empty").touch()
    for path in (cut, tmp_path / "empty", tmp_path / "none", tmp_path):
        with pytest.raises(InputError) as caught:
            load_canonical(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_coverage_report_is_plain_json(tmp_path: Path) -> None:
    Coverage("torchvision", {"a": "b"}, {"c": "no use"}, {"d": "new"}).write(tmp_path / "coverage.json")
    assert json.loads((tmp_path / "coverage.json").read_text()) == {
        "target": "torchvision",
        "loaded": {"a": "b"},
        "left_out": {"c": "no use"},
        "newly_initialised": {"d": "new"},
    }

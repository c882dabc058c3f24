from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from soco_core.config import ModelConfig
from soco_core.convert.export import check_complete, coverage_page, export, split_pretrained
from soco_core.errors import InputError

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]


def test_every_key_is_loaded_or_left_out_with_a_reason(network: Network, small_model: ModelConfig) -> None:
    tensors = network(small_model)
    canonical, left_out = split_pretrained(tensors, "test")
    for target in ("torchvision", "detectron2"):
        renamed, coverage = export(canonical, target, left_out)
        assert coverage.loaded.keys() | coverage.left_out.keys() == tensors.keys()
        assert set(coverage.loaded.values()) == renamed.keys()
        assert {key.partition(".")[0] for key in coverage.left_out} == {"projector", "predictor"}
        assert all(coverage.left_out.values())
        assert {"rpn", "box_predictor", "mask_head"} <= {
            part for key in coverage.newly_initialised for part in key.replace("rpn_head", "rpn").split(".")
        }


def test_a_key_without_a_name_is_not_lost_in_silence(network: Network, small_model: ModelConfig) -> None:
    canonical, _ = split_pretrained(network(small_model), "test")
    canonical["encoder.layer5.0.conv.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"encoder\.layer5\.0\.conv\.weight: no name in detectron2"):
        export(canonical, "detectron2", {})


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"file: key target\.conv1\.weight belongs to no known part"):
        split_pretrained({"target.conv1.weight": torch.zeros(1)}, "file")


def test_completeness(network: Network, small_model: ModelConfig) -> None:
    tensors = network(small_model)
    check_complete(tensors, small_model, "file")
    dropped = {key: value for key, value in tensors.items() if key != "neck.fpn_convs.2.bn.bias"}
    with pytest.raises(InputError, match=r"file: 1 keys .* missing, the first is neck\.fpn_convs\.2\.bn\.bias"):
        check_complete(dropped, small_model, "file")
    with pytest.raises(InputError, match=r"not the model's, the first is head\.bn2\.bias"):
        check_complete(tensors, small_model.model_copy(update={"head_convs": 1}), "file")
    with pytest.raises(InputError, match=r"head\.fc1\.bias has shape \[32\], the recipe's model has \[64\]"):
        check_complete(tensors, small_model.model_copy(update={"head_fc_size": 64}), "file")


def test_the_page_names_every_key(network: Network, small_model: ModelConfig) -> None:
    tensors = network(small_model)
    canonical, left_out = split_pretrained(tensors, "test")
    page = coverage_page([export(canonical, target, left_out)[1] for target in ("torchvision", "detectron2")])
    assert all(f"`{key}`" in page for key in tensors)
    assert (
        "| `neck.fpn_convs.0.conv.weight` | `backbone.fpn.layer_blocks.0.0.weight` | `backbone.fpn_output2.weight` |"
        in page
    )

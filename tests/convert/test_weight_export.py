from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from soco_core.config import ModelConfig
from soco_core.convert.export import Export, check_complete, export, exports_of, split_pretrained
from soco_core.convert.page import coverage_page
from soco_core.errors import InputError

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]
Models = Callable[[str], ModelConfig]

HEAD = {
    "torchvision": ["roi_heads.box_head.*"],
    "detectron2": ["roi_heads.box_head.*"],
    "mmdetection": ["roi_head.bbox_head.shared_convs.*", "roi_head.bbox_head.shared_fcs.*"],
}
FPN = {
    "torchvision": ["backbone.fpn.*"],
    "detectron2": [f"backbone.fpn_{part}{level}.*" for part in ("lateral", "output") for level in (2, 3, 4, 5)],
    "mmdetection": ["neck.*"],
}
NOT_PRETRAINED = {
    "fpn": {"torchvision": [], "detectron2": [], "mmdetection": []},
    # In a C4 detector all is pretrained; torchvision has none, and its detectors have an FPN and a box head.
    "c4": {"torchvision": FPN["torchvision"] + HEAD["torchvision"], "detectron2": [], "mmdetection": []},
    "one level": {
        "torchvision": [
            *(f"backbone.fpn.inner_blocks.{i}.*" for i in (0, 1)),
            *(f"backbone.fpn.layer_blocks.{i}.*" for i in (0, 1, 3)),
        ],
        "detectron2": [
            *(f"backbone.fpn_lateral{i}.*" for i in (2, 3)),
            *(f"backbone.fpn_output{i}.*" for i in (2, 3, 5)),
        ],
        "mmdetection": [
            *(f"neck.lateral_convs.{i}.*" for i in (0, 1)),
            *(f"neck.fpn_convs.{i}.*" for i in (0, 1, 3)),
        ],
    },
    "without head": {
        "torchvision": [
            "backbone.fpn.inner_blocks.0.*",
            *(f"backbone.fpn.layer_blocks.{i}.*" for i in (0, 2, 3)),
            *HEAD["torchvision"],
        ],
        "detectron2": [
            "backbone.fpn_lateral2.*",
            *(f"backbone.fpn_output{i}.*" for i in (2, 4, 5)),
            *HEAD["detectron2"],
        ],
        "mmdetection": [
            "neck.lateral_convs.0.*",
            *(f"neck.fpn_convs.{i}.*" for i in (0, 2, 3)),
            *HEAD["mmdetection"],
        ],
    },
    "without FPN": {target: FPN[target] + HEAD[target] for target in FPN},
    "without FPN, C4": {
        "torchvision": ["backbone.body.layer4.*", *FPN["torchvision"], *HEAD["torchvision"]],
        "detectron2": ["backbone.bottom_up.res5.*", *FPN["detectron2"], *HEAD["detectron2"]],
        "mmdetection": ["backbone.layer4.*", *FPN["mmdetection"], *HEAD["mmdetection"]],
    },
}
WITHOUT_PYRAMID = {
    "torchvision": ["backbone.fpn.inner_blocks.*", "backbone.fpn.layer_blocks.*"],
    "detectron2": [f"backbone.fpn_{part}{level}.*" for part in ("lateral", "output") for level in (3, 4, 5)],
    "mmdetection": ["neck.lateral_convs.*", *(f"neck.fpn_convs.{i}.*" for i in range(3))],
}
"""Of a dense detector, from a pretraining without FPN."""


def test_every_key_is_loaded_or_left_out_with_a_reason(network: Network, kind: str, model_of: Models) -> None:
    small_model = model_of(kind)
    tensors = network(small_model)
    check_complete(tensors, small_model, "file")
    canonical, left_out = split_pretrained(tensors, "test")
    assert len(exports_of(small_model)) == (3 if kind == "c4" else 6)
    for each in exports_of(small_model):
        renamed, coverage = export(canonical, each, small_model, left_out)
        assert coverage.loaded.keys() | coverage.left_out.keys() == tensors.keys()
        assert set(coverage.loaded.values()) == renamed.keys()
        assert not coverage.loaded.keys() & coverage.left_out.keys()
        assert all(coverage.left_out.values())
        left = {key for key in coverage.left_out if key.partition(".")[0] not in {"projector", "predictor"}}
        if each.detector != "dense":
            assert not left
            assert {"rpn", "mask_head"} <= {
                part for key in coverage.newly_initialised for part in key.replace("rpn_head", "rpn").split(".")
            }
        else:
            assert left == {
                k for k in canonical if k.startswith(("head.", "neck.lateral_convs.0.", "neck.fpn_convs.0."))
            }
            assert "P6" in "".join(coverage.newly_initialised.values())


@pytest.mark.parametrize("target", ["torchvision", "detectron2", "mmdetection"])
def test_what_a_pretraining_lacks_is_said_to_start_from_scratch(
    target: str, network: Network, kind: str, model_of: Models
) -> None:
    canonical, _ = split_pretrained(network(model_of(kind)), "test")
    for each in exports_of(model_of(kind)):
        if each.target != target:
            continue
        _, coverage = export(canonical, each, model_of(kind), {})
        always = each.new_parts.keys()
        assert always <= coverage.newly_initialised.keys()
        found = sorted(coverage.newly_initialised.keys() - always)
        if each.detector != "dense":
            assert found == sorted(NOT_PRETRAINED[kind][target])
        elif kind == "fpn":
            assert found == []
        elif kind == "without FPN":
            assert found == sorted(WITHOUT_PYRAMID[target])


def test_weights_of_another_kind_are_refused(network: Network, model_of: Models) -> None:
    with pytest.raises(InputError, match=r"keys of the model are missing, the first is head\.bn1\.bias"):
        check_complete(network(model_of("c4")), model_of("fpn"), "file")
    with pytest.raises(InputError, match=r"keys are not the model's, the first is head\.bn1\.bias"):
        check_complete(network(model_of("fpn")), model_of("c4"), "file")


def test_a_key_without_a_name_is_not_lost_in_silence(network: Network, small_model: ModelConfig) -> None:
    canonical, _ = split_pretrained(network(small_model), "test")
    canonical["encoder.layer5.0.conv.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"encoder\.layer5\.0\.conv\.weight: no name in detectron2"):
        export(canonical, Export("detectron2", "fpn"), small_model, {})


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
    page = coverage_page([export(canonical, each, small_model, left_out)[1] for each in exports_of(small_model)])
    assert all(f"`{key}`" in page for key in tensors)
    assert (
        "| `neck.fpn_convs.0.conv.weight` | `backbone.fpn.layer_blocks.0.0.weight` | `backbone.fpn_output2.weight` | "
        "`neck.fpn_convs.0.conv.weight` |  |  |  |" in page
    )
    assert (
        "| `neck.fpn_convs.3.conv.weight` | `backbone.fpn.layer_blocks.3.0.weight` | `backbone.fpn_output5.weight` | "
        "`neck.fpn_convs.3.conv.weight` | `backbone.fpn.layer_blocks.2.0.weight` | `backbone.fpn_output5.weight` | "
        "`neck.fpn_convs.2.conv.weight` |" in page
    )
    assert "- `head.fc1.bias`: box head: RetinaNet and FCOS have none (torchvision-dense, " in page
    assert "a detector has no such part (4.2)\n" in page

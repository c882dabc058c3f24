"""Which precision a device gets, and that a step whose gradients overflow is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from soco_core.engine.precision import Precision, choose_precision
from soco_core.errors import SocoError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "wanted", "chosen"),
    [
        ((7, 0), "auto", "fp16"),
        ((7, 5), "auto", "fp16"),
        ((8, 0), "auto", "bf16"),
        ((9, 0), "auto", "bf16"),
        ((9, 0), "fp16", "fp16"),
        ((7, 0), "fp32", "fp32"),
    ],
)
def test_bf16_where_a_gpu_has_it_itself(
    capability: tuple[int, int], wanted: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision(wanted, GPU) == chosen  # type: ignore[arg-type]


def test_what_a_device_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    with pytest.raises(SocoError, match=r"capability 8.0, and Tesla V100 has 7.0; set auto or fp16"):
        choose_precision("bf16", GPU)
    with pytest.raises(SocoError, match="fp16 needs a GPU"):
        choose_precision("fp16", CPU)
    with pytest.raises(SocoError, match=r"^runtime\.finetune_precision: fp16 needs a GPU"):
        choose_precision("fp16", CPU, "runtime.finetune_precision")


def test_a_cpu_computes_in_fp32_unless_asked_for_bf16() -> None:
    assert choose_precision("auto", CPU) == "fp32"
    linear = nn.Linear(3, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        precision = Precision(choose_precision(name, CPU), CPU)  # type: ignore[arg-type]
        with precision.autocast():
            assert linear(torch.ones(1, 3)).dtype == dtype
        assert not precision.skips
        assert precision.scaler.scale(torch.ones(1)) == 1


def test_fp16_scales_the_loss_and_leaves_out_a_step_that_overflows() -> None:
    precision = Precision("fp16", CPU)
    assert precision.skips
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    before = precision.scaler.get_scale()
    for factor, expected, scale in ((1.0, 0.5, before), (float("inf"), 0.5, before / 2), (1.0, 0.0, before / 2)):
        optimizer.zero_grad()
        precision.scaler.scale((weight * factor).sum()).backward()
        precision.scaler.unscale_(optimizer)
        precision.scaler.step(optimizer)
        precision.scaler.update()
        assert weight.item() == expected
        assert precision.scaler.get_scale() == scale
    again = Precision("fp16", CPU)
    again.go_on(precision.scaler.state_dict(), precision.used)
    assert again.scaler.get_scale() == before / 2
    assert again.used == ["fp16"]


def test_going_on_in_another_precision_and_back() -> None:
    half, brain = Precision("fp16", CPU), Precision("bf16", CPU)
    brain.go_on(half.scaler.state_dict(), half.used)
    assert (brain.used, brain.scaler.state_dict()) == (["fp16", "bf16"], {})
    back = Precision("fp16", CPU)
    back.go_on(brain.scaler.state_dict(), brain.used)
    assert back.used == ["fp16", "bf16", "fp16"]
    assert back.scaler.state_dict() == half.scaler.state_dict()

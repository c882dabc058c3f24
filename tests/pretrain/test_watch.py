"""What is measured, by hand; and when a training is told to have diverged or collapsed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from soco_core.config import ModelConfig, PretrainConfig
from soco_core.engine.distributed import Processes
from soco_core.models.soco import ViewBatch
from soco_core.pretrain.watch import Measured, Measurements, Watch, spread, spread_moments


def view(boxes: list[list[list[float]]]) -> ViewBatch:
    tensor = torch.tensor(boxes)
    images = torch.zeros(len(boxes), 3, 4, 4)
    return ViewBatch(images, tensor, torch.zeros(tensor.shape[:2], dtype=torch.int64))


def square(side: float) -> list[float]:
    return [10.0, 10.0, 10.0 + side, 10.0 + side]


def test_two_passes_of_a_step_are_weighted_by_their_images() -> None:
    measurements = Measurements(ModelConfig(), Processes("cpu"))
    one, other = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    # Sides 48 and 96 still belong to P2 and P3; 97, 200 and 224 do not.
    measurements.add(
        [view([[square(48)]])], torch.tensor([True]), {"loss": torch.tensor(-3.0), "1_to_2": torch.tensor(-1.0)}, [one]
    )
    measurements.add(
        [view([[square(96), square(97)], [square(200), square(224)]])],
        torch.tensor([True, False]),
        {"loss": torch.tensor(-6.0), "1_to_2": torch.tensor(-4.0)},
        [other],
    )
    measurements.close(7, torch.tensor([3.0, 4.0]))
    (measured,) = measurements.read()
    assert measured.step == 7
    assert measured.gradient_norms.tolist() == [3.0, 4.0]
    values = measured.values
    assert (values["loss"], values["loss_1_to_2"]) == (-5.0, -3.0)
    assert values["gradient_norm"] == 5.0
    assert values["unusable_images"] == pytest.approx(1 / 3)
    assert [values[f"boxes_P{level}"] for level in (2, 3, 4, 5)] == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert measurements.read() == []


@pytest.mark.parametrize("config", [ModelConfig(architecture="c4"), ModelConfig(scale_aware=False)])
def test_without_levels_there_are_no_shares_of_levels(config: ModelConfig) -> None:
    measurements = Measurements(config, Processes("cpu"))
    measurements.add([view([[square(48)]])], torch.tensor([True]), {"loss": torch.tensor(-1.0)}, [torch.ones(1, 1, 2)])
    measurements.close(0, torch.ones(1))
    assert set(measurements.read()[0].values) == {"loss", "unusable_images", "embedding_std", "gradient_norm"}


def test_steps_read_together_are_those_read_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    often, rarely = (Measurements(ModelConfig(), Processes("cpu")) for _ in range(2))
    read = []
    for step in range(3):
        parts = ([view([[square(60)]])], torch.tensor([True]), {"loss": torch.randn((), generator=generator)})
        for measurements in (often, rarely):
            measurements.add(*parts, [torch.ones(1, 1, 2)])
            measurements.close(step, torch.full((2,), float(step)))
        read += [(m.step, m.values) for m in often.read()]
    assert [(m.step, m.values) for m in rarely.read()] == read


def test_spread_of_equal_and_of_evenly_spread_embeddings() -> None:
    equal = [torch.tensor([0.3, -0.2, 0.7]).expand(4, 5, 3)]
    assert spread(*spread_moments(equal), 20) == pytest.approx(0, abs=1e-7)
    even = [torch.randn(40, 50, 64, generator=torch.Generator().manual_seed(0))]
    assert spread(*spread_moments(even), 2000) == pytest.approx(1, abs=0.01)


def test_spread_over_views_of_different_sizes_by_numpy() -> None:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(3, 4, 8, generator=generator) + 1, torch.randn(3, 2, 8, generator=generator)]
    rows = np.concatenate([v.reshape(-1, 8).numpy() for v in views]).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert spread(*spread_moments(views), 18) == pytest.approx(unit.std(axis=0).mean() * math.sqrt(8), rel=1e-6)


def measured(step: int, loss: float, norm: float = 1.0, embedding_std: float = 0.8) -> Measured:
    values = {"loss": loss, "gradient_norm": norm, "embedding_std": embedding_std}
    return Measured(step, values, torch.ones(1))


def watch(steps: int = 4, warmup: int = 0, skips: bool = False) -> Watch:
    return Watch(PretrainConfig(divergence_steps=steps), warmup, skips)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_a_divergence_at_once(value: float) -> None:
    assert f"the loss is {value}" in str(watch(warmup=9).diverged(measured(0, value), 1.0))
    assert f"the gradient norm is {value}" in str(watch(warmup=9).diverged(measured(0, -1.0, value), 1.0))


def test_a_step_that_the_scaler_skips_is_counted_and_no_divergence() -> None:
    judge = watch(skips=True)
    assert judge.diverged(measured(0, -1.0, math.inf), 65536.0) is None
    assert judge.diverged(measured(1, -1.0), 32768.0) is None
    assert judge.skipped_steps == 1
    assert "the gradient norm is nan" in str(judge.diverged(measured(2, -1.0, math.nan), 0.5))
    assert "the loss is nan" in str(judge.diverged(measured(3, math.nan), 32768.0))


def first_divergence(losses: list[float], judge: Watch) -> int | None:
    return next((i for i, loss in enumerate(losses) if judge.diverged(measured(i, loss), 1.0)), None)


def test_a_loss_that_rose_half_the_way_back_is_a_divergence() -> None:
    # Averages of 4 steps: -6 at best (steps 0 to 3); of steps 6 to 9 they are -3 and -2.75.
    losses = [-6.0, -6.0, -6.0, -6.0, -5.0, -5.0, -3.0, -3.0, -3.0, -3.0]
    assert first_divergence(losses, watch()) is None
    assert first_divergence([*losses[:-1], -2.0], watch()) == 9
    assert "over the last 4 steps is -2.750, after -6.000 at best" in str(
        [watch_ := watch(), *(watch_.diverged(measured(i, x), 1.0) for i, x in enumerate([*losses[:-1], -2.0]))][-1]
    )


def test_single_losses_and_the_warmup_do_not_count() -> None:
    assert first_divergence([-6.0] * 8 + [0.0] + [-6.0] * 8, watch()) is None
    assert first_divergence([-6.0] * 8 + [-2.0] * 8, watch(warmup=8)) is None
    assert first_divergence([-6.0] * 8 + [-2.0] * 8, watch(warmup=4)) is not None


def test_a_loss_that_never_was_below_zero_has_nowhere_to_rise_from() -> None:
    assert first_divergence([0.1, 0.3] * 20, watch()) is None


def test_collapse_is_said_once() -> None:
    judge = watch()
    said = [judge.collapsed(measured(i, -7.9, embedding_std=0.5 if i < 5 else 0.01)) for i in range(60)]
    # Ten steps with a mean below 0.1: one of 0.5 and nine of 0.01.
    assert [i for i, yes in enumerate(said) if yes] == [13]
    assert not any(watch().collapsed(measured(i, -7.9, embedding_std=0.3)) for i in range(60))


def test_a_resumed_watch_judges_as_an_unbroken_one() -> None:
    losses = [-6.0] * 5 + [-2.0] * 10
    unbroken = first_divergence(losses, watch())
    before, after = watch(), watch()
    assert first_divergence(losses[:7], before) is None
    after.load_state_dict(before.state_dict())
    assert unbroken is not None
    assert first_divergence(losses[7:], after) == unbroken - 7

"""Learning rate and EMA coefficient at the points that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from soco_core.config import PretrainConfig
from soco_core.pretrain.schedules import ema_coefficient, ema_coefficients, learning_rates, peak_learning_rate

PAPER = PretrainConfig()
STEPS_PER_EPOCH = 625  # 1,281,167 images // 2048


def test_peak_follows_the_batch() -> None:
    assert peak_learning_rate(PAPER, 2048) == 8.0
    assert peak_learning_rate(PAPER, 512) == 2.0


def test_learning_rate_at_its_corners() -> None:
    rates = learning_rates(PAPER, 2048, STEPS_PER_EPOCH)
    warmup = 10 * STEPS_PER_EPOCH
    assert len(rates) == 100 * STEPS_PER_EPOCH
    assert rates[0] == pytest.approx(0.08)
    assert rates[warmup // 2] == pytest.approx((0.08 + 8.0) / 2)
    assert rates[warmup] == 8.0
    assert rates[-1] == pytest.approx(1e-6, abs=1e-15)
    middle = warmup + (len(rates) - 1 - warmup) / 2
    around = (rates[math.floor(middle)] + rates[math.ceil(middle)]) / 2
    assert around == pytest.approx((8.0 + 1e-6) / 2, rel=1e-6)
    assert (np.diff(rates[:warmup]) > 0).all()
    assert (np.diff(rates[warmup:]) < 0).all()


def test_without_warmup_the_first_step_has_the_peak() -> None:
    assert learning_rates(PretrainConfig(warmup_epochs=0.0), 256, 3)[0] == 1.0


def test_a_single_step_is_possible() -> None:
    config = PretrainConfig(epochs=1, warmup_epochs=0.0)
    assert learning_rates(config, 256, 1).tolist() == [1.0]
    assert ema_coefficients(config, 1).tolist() == [0.99]


def test_ema_coefficient_at_start_middle_and_end() -> None:
    assert ema_coefficient(0, 1000, 0.99) == pytest.approx(0.99, abs=1e-15)
    assert ema_coefficient(500, 1000, 0.99) == pytest.approx(0.995, abs=1e-15)
    assert ema_coefficient(1000, 1000, 0.99) == 1.0
    coefficients = ema_coefficients(PAPER, 10)
    assert len(coefficients) == 1000
    assert (np.diff(coefficients) > 0).all()
    assert coefficients[500] == pytest.approx(0.995, abs=1e-12)

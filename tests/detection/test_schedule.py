from __future__ import annotations

import pytest

from soco_core.config import FinetuneConfig
from soco_core.detection.schedule import learning_rates


def test_the_rate_of_the_coco_1x_schedule():
    rates = learning_rates(FinetuneConfig())
    assert len(rates) == 90_000
    assert rates[0] == pytest.approx(0.02 * 0.001)
    assert rates[500] == pytest.approx(0.02 * (0.001 * 0.5 + 0.5))
    assert rates[1000] == pytest.approx(0.02)
    assert rates[59_999] == pytest.approx(0.02)
    assert rates[60_000] == pytest.approx(0.002)
    assert rates[79_999] == pytest.approx(0.002)
    assert rates[80_000] == pytest.approx(0.0002)
    assert rates[-1] == pytest.approx(0.0002)


def test_a_constant_warm_up_stays_and_then_ends():
    rates = learning_rates(
        FinetuneConfig(iterations=5, warmup_iterations=2, warmup="constant", warmup_start_factor=0.5, milestones=())
    )
    assert rates.tolist() == [0.01, 0.01, 0.02, 0.02, 0.02]


def test_without_warm_up_the_first_rate_is_whole():
    rates = learning_rates(FinetuneConfig(iterations=10, warmup_iterations=0, milestones=()))
    assert rates.tolist() == [0.02] * 10

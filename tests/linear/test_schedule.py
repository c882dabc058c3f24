"""The drops by hand."""

from __future__ import annotations

import numpy as np
import pytest

from soco_core.errors import RecipeError
from soco_core.linear.schedule import rate_factors
from soco_core.linear_config import LinearConfig
from soco_core.recipes import parse_recipe


def test_the_rate_drops_after_60_and_80_of_100_epochs() -> None:
    factors = rate_factors(LinearConfig(), 500)  # five steps an epoch
    assert factors.tolist() == pytest.approx([1.0] * 300 + [0.1] * 100 + [0.01] * 100)
    assert np.unique(rate_factors(LinearConfig(milestones=()), 7)).tolist() == [1.0]
    assert rate_factors(LinearConfig(), 500_400)[[300_239, 300_240, 400_319, 400_320]] == pytest.approx(
        [1.0, 0.1, 0.1, 0.01]
    )


def test_the_papers_values_are_the_defaults() -> None:
    config = LinearConfig()
    assert (config.learning_rates, config.momentum, config.weight_decay) == ((30.0,), 0.9, 0.0)
    assert (config.epochs, config.batch_size, config.image_size, config.resize) == (100, 256, 224, 256)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("linear.learning_rates=[3.0, 3.0]", "has one twice"),
        ("linear.learning_rates=[]", "learning_rates"),
        ("linear.learning_rates=[0.0]", "learning_rates"),
        ("linear.milestones=[0.8, 0.6]", "must increase"),
        ("linear.resize=200", r"resize \(200\) is below image_size \(224\)"),
        ("linear.rate=1", "rate"),
    ],
)
def test_what_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe("", [override])

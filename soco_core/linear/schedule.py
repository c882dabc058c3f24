"""The learning rate's drops as an array over all steps: nothing keeps a hidden counter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soco_core.linear_config import LinearConfig

DROP = 0.1


def rate_factors(config: LinearConfig, total_steps: int) -> NDArray[np.float64]:
    """Return what the initial learning rates are multiplied with at each step, float64 [total_steps].

    It is 1 at first and drops by a factor of 10 at each milestone.
    """
    factors = np.ones(total_steps)
    for milestone in config.milestones:
        factors[round(milestone * total_steps) :] *= DROP
    return factors

"""The learning rate of every step, as an array: nothing keeps a hidden counter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soco_core.config import FinetuneConfig

DROP = 0.1


def learning_rates(settings: FinetuneConfig) -> NDArray[np.float64]:
    """Return the learning rate at each step, [iterations].

    It rises linearly from `warmup_start_factor` of the base rate at step 0 to the whole at step
    `warmup_iterations` (or stays at that factor until then), and drops by a factor of 10 from each milestone on (4.2).
    """
    steps = np.arange(settings.iterations)
    rates = np.full(settings.iterations, settings.learning_rate)
    for milestone in settings.milestones:
        rates[steps >= round(milestone * settings.iterations)] *= DROP
    if settings.warmup_iterations:
        share = np.minimum(steps / settings.warmup_iterations, 1.0)
        if settings.warmup == "constant":
            share = np.floor(share)
        rates *= settings.warmup_start_factor * (1 - share) + share
    return rates

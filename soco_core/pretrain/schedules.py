"""Learning rate and EMA coefficient as arrays over all steps: nothing keeps a hidden counter (paper 4.1)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from soco_core.config import PretrainConfig

LEARNING_RATE_BATCH = 256
"""The base learning rate is stated for this batch size (4.1)."""

FloatArray = npt.NDArray[np.float64]


def peak_learning_rate(config: PretrainConfig, batch_size: int) -> float:
    """lr = lr_base x BatchSize / 256 (4.1)."""
    return config.base_learning_rate * batch_size / LEARNING_RATE_BATCH


def learning_rates(config: PretrainConfig, batch_size: int, steps_per_epoch: int) -> FloatArray:
    """Learning rate of every step: linear warm-up, then half a cosine down to `final_learning_rate`.

    Returns:
        float64 [epochs * steps_per_epoch]. Entry 0 is ``warmup_start_factor`` x the peak (the peak itself
        without warm-up), the first entry after the warm-up is the peak, the last is the final rate.
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    peak = peak_learning_rate(config, batch_size)
    rising = peak * np.linspace(config.warmup_start_factor, 1.0, warmup, endpoint=False)
    progress = np.arange(total - warmup) / max(total - warmup - 1, 1)
    falling = config.final_learning_rate + (peak - config.final_learning_rate) * (1 + np.cos(np.pi * progress)) / 2
    return np.concatenate([rising, falling])


def ema_coefficient(step: float, total_steps: int, start: float) -> float:
    """tau at a step: 1 - (1 - start) * (cos(pi * step / total_steps) + 1) / 2; from `start` to 1 (4.1)."""
    return 1.0 - (1.0 - start) * (math.cos(math.pi * step / total_steps) + 1.0) / 2.0


def ema_coefficients(config: PretrainConfig, steps_per_epoch: int) -> FloatArray:
    """EMA coefficient of every step, float64 [epochs * steps_per_epoch]."""
    total = config.epochs * steps_per_epoch
    return np.array([ema_coefficient(step, total, config.ema_start) for step in range(total)])

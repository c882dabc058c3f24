"""What each way to evaluate returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tables:
    """Numbers in percent; None where the truth has nothing to find."""

    numbers: dict[str, float | None]
    categories: dict[str, float | None]
    """AP by the category's name."""

"""What people read while a stage works goes to standard error; standard output is for results."""

from __future__ import annotations

import os
import sys

STAGE_LABEL = "SOCO_STAGE_LABEL"
"""Environment variable of a pipeline's stage: the label in front of each of its lines."""


def say(text: str) -> None:
    """Print one line about the work to standard error."""
    label = os.environ.get(STAGE_LABEL)
    print(f"[{label}] {text}" if label else text, file=sys.stderr, flush=True)

"""What people read while a stage works goes to standard error; standard output is for results."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print one line about the work to standard error."""
    print(text, file=sys.stderr, flush=True)

"""What a training that diverged leaves, so that its cause can be found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soco_core.artifacts.result import ResultDirectory
from soco_core.errors import SocoError
from soco_core.storage import write_text

REPORT, PICTURE = "report.json", "images.png"


def dump_divergence(
    result: ResultDirectory, step: int, report: Callable[[], dict[str, Any]], draw: Callable[[Path], None]
) -> str:
    """Write ``diverged/step-N/``, a report and a picture, and publish it once it is whole.

    Args:
        result: the result directory.
        step: the step, from 0.
        report: returns what is known of the step, plain JSON; numbers that are not finite are written as text.
        draw: writes what the networks saw as a PNG to a path.

    Returns:
        Where it lies, for a message. What fails here (the disk may be full) must not hide the divergence, so it is
        told in these words too.
    """
    folder = result.path / "diverged" / f"step-{step}"
    written: list[Path] = []
    trouble = ""
    try:
        text = json.dumps(_finite({"step": step, **report()}), indent=2, allow_nan=False)
        write_text(folder / REPORT, text + "\n")
        written.append(folder / REPORT)
        draw(folder / PICTURE)
        written.append(folder / PICTURE)
    except (SocoError, OSError) as error:
        trouble = f" (not whole: {' '.join(str(error).split())})"
    try:
        if written:
            result.publish(*written)
    except (SocoError, OSError):
        trouble += " (on this machine only: the store cannot be written)"
    return f"{folder if written else 'nowhere'}{trouble}"


def _finite(value: Any) -> Any:
    """Replace numbers that JSON has no word for by their names."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

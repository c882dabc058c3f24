"""The frame of a stage that a pipeline runs in a process of its own.

Its lines are what the pipeline command (pipelines/screen.py) and the reader of a pod's log go by:
``[pretrain] started (process 12)``, progress, then one of ``done in 8.1 s: RESULT``, ``error: CAUSE``
or ``stopped: WHAT WAS KEPT``.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from soco_core.config import Recipe
from soco_core.console import STAGE_LABEL, say
from soco_core.engine.loading import killed_loader
from soco_core.engine.processes import end_with_pipeline, leave, stop_on_sigterm
from soco_core.engine.setup import share_cores
from soco_core.errors import InterruptedStageError, SocoError, one_line
from soco_core.recipes import load_recipe, parse_recipe
from soco_core.storage import is_s3

IN_CONTAINER = "SOCO_IN_CONTAINER"
"""Environment variable: the stage runs in a container of its own, whose host name is the beginning of its id."""
EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_STOPPED = 130


@dataclass
class StageOutcome:
    """What a stage hands on; its body fills this in."""

    result: str = ""
    """Path or URI of the result directory, shown to users."""


@contextmanager
def stage_process(label: str) -> Iterator[StageOutcome]:
    """Run a stage as this process's only work: labelled lines, one-line errors, no orphan.

    SIGTERM acts as SIGINT does, so that locks, temporary files and workers are put away. An error
    ends the process: exit status 2 for one that the user can act on, 1 for any other (after its
    traceback), 130 if the stage was asked to stop.

    Args:
        label: name of the stage, and what tells it from its siblings: ``propose 0/2``.
    """
    os.environ[STAGE_LABEL] = label
    end_with_pipeline()
    share_cores()
    stop_on_sigterm()
    where = f" in container {platform.node()}" if os.environ.get(IN_CONTAINER) else ""
    say(f"started (process {os.getpid()}{where})")
    began = time.monotonic()
    outcome = StageOutcome()
    try:
        yield outcome
    except (InterruptedStageError, KeyboardInterrupt) as stop:
        say(f"stopped: {one_line(stop) if isinstance(stop, SocoError) else 'what was finished is kept'}")
        leave(EXIT_STOPPED)
    except Exception as caught:
        known = killed_loader(caught) or caught
        if not isinstance(known, SocoError):
            traceback.print_exc()
        say(f"error: {one_line(known)}")
        leave(EXIT_INPUT if isinstance(known, SocoError) else EXIT_BUG)
    say(f"done in {time.monotonic() - began:.1f} s: {outcome.result}")


def read_recipe(value: str) -> Recipe:
    """Read a pipeline's parameter `recipe`: the name of a recipe, the path or URI of a YAML file, or YAML text.

    Raises:
        RecipeError: as :func:`soco_core.recipes.load_recipe` does.
    """
    if "\n" in value or (":" in value and not is_s3(value)):
        return parse_recipe(value, source="parameter `recipe`")
    return load_recipe(value)

"""The two detection engines: torchvision, which is always there, and detectron2, where it is installed.

Both train and evaluate by the same code; they differ in whose detector it is, and in the names of its weights
(docs/detection.md, Engines).
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal

from soco_core.config import Recipe
from soco_core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from soco_core.artifacts.initialisation import Initialisation
    from soco_core.artifacts.weights import Coverage

Engine = Literal["torchvision", "detectron2"]
DETECTRON2 = "detectron2"


def detectron2_available() -> bool:
    """Tell whether detectron2 is installed, without importing it."""
    return importlib.util.find_spec(DETECTRON2) is not None


def resolve_engine(recipe: Recipe) -> Recipe:
    """Return the recipe with the engine that computes it in the place of `auto`.

    Raises:
        InputError: it asks for detectron2, which is not installed.
    """
    asked = recipe.finetune.engine
    if asked == DETECTRON2 and not detectron2_available():
        raise InputError(
            "finetune.engine: detectron2 is not installed; install it (docs/detection.md, Engines), or set "
            "finetune.engine to torchvision"
        )
    if asked != "auto":
        return recipe
    engine: Engine = "detectron2" if detectron2_available() else "torchvision"
    return recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"engine": engine})})


def engine_export(recipe: Recipe) -> str:
    """Return the file of a `convert` result that the recipe's engine starts from."""
    return f"{resolve_engine(recipe).finetune.engine}.pth"


def build_engine_detector(recipe: Recipe, num_classes: int) -> nn.Module:
    """Build the detector of the recipe's engine (:func:`soco_core.detection.model.build_detector`).

    Its weights are drawn from torch's global generator: seed it before.

    Args:
        recipe: the resolved recipe; `model` and `finetune` are used.
        num_classes: number of categories, without the background.

    Raises:
        InputError: detectron2 is asked for and not installed, or does not fit the installed torch.
    """
    if resolve_engine(recipe).finetune.engine == DETECTRON2:
        try:
            from soco_core.detection.detectron2_engine.build import build_detectron2_detector
        except ImportError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"finetune.engine: detectron2 is installed but cannot be imported ({reason}); build it for the "
                "installed torch (docs/detection.md, Engines), or set finetune.engine to torchvision"
            ) from error
        return build_detectron2_detector(recipe, num_classes)
    from soco_core.detection.model import build_detector

    return build_detector(recipe, num_classes)


def load_engine_initialisation(model: nn.Module, start: Initialisation, recipe: Recipe) -> Coverage:
    """Load the initial weights into a detector of :func:`build_engine_detector`; return what became of each key.

    Raises:
        InputError: see :func:`soco_core.detection.weights.load_initialisation`.
    """
    if resolve_engine(recipe).finetune.engine == DETECTRON2:
        from soco_core.detection.detectron2_engine.weights import load_detectron2

        return load_detectron2(model, start, recipe)
    from soco_core.detection.weights import load_initialisation

    return load_initialisation(model, start)

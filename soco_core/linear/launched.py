"""The linear evaluation of a pipeline: in as many processes of this machine as the recipe says."""

from __future__ import annotations

from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.launch import Training, train_here
from soco_core.linear import stage
from soco_core.tracking import TrackingContext


def linear(
    recipe: Recipe,
    *,
    images: str,
    init: str,
    output: str,
    tracking: TrackingContext | None = None,
    method: str | None = None,
) -> ResultDirectory:
    """Evaluate as :func:`soco_core.linear.stage.linear` does, in `runtime.processes` processes.

    Args:
        recipe, images, init, output, tracking, method: that stage's.

    Raises:
        InputError: as the stage raises it.
        InterruptedStageError: stopped by a signal; what was finished is kept.
        SocoError: the training failed.
    """

    def evaluate() -> ResultDirectory:
        return stage.linear(recipe, images=images, init=init, output=output, tracking=tracking, method=method)

    def locate() -> ResultDirectory:
        return stage.locate_linear(recipe, images=images, init=init, output=output, method=method)

    arguments = {"--images": images, "--init": init, "--method": method or "", "--output": output}
    batch_size = recipe.linear.batch_size
    return train_here(
        Training("linear", recipe, arguments, evaluate, locate, lambda count: count <= batch_size, tracking)
    )

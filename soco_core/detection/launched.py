"""The finetuning of a pipeline: in as many processes of this machine as the recipe says."""

from __future__ import annotations

from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.detection import stage
from soco_core.detection.coco import data_of_benchmark
from soco_core.launch import Training, train_here
from soco_core.tracking import TrackingContext


def finetune(
    recipe: Recipe,
    *,
    coco: str,
    init: str,
    output: str,
    tracking: TrackingContext | None = None,
    method: str | None = None,
) -> ResultDirectory:
    """Finetune as :func:`soco_core.detection.stage.finetune` does, in `runtime.processes` processes.

    Args:
        recipe, coco, init, output, tracking, method: that stage's.

    Raises:
        InputError: as the stage raises it.
        InterruptedStageError: stopped by a signal; what was finished is kept.
        SocoError: the training failed.
    """

    def train() -> ResultDirectory:
        return stage.finetune(recipe, coco=coco, init=init, output=output, tracking=tracking, method=method)

    def locate() -> ResultDirectory:
        return stage.locate_finetuning(recipe, coco=coco, init=init, output=output, method=method)

    arguments = {
        # The recipe holds the benchmark's settings; to name it once more would undo what changed them.
        "--coco": coco or data_of_benchmark(recipe),
        "--init": init,
        "--method": method or "",
        "--output": output,
    }
    batch_size = recipe.finetune.batch_size
    return train_here(
        Training("finetune", recipe, arguments, train, locate, lambda count: batch_size % count == 0, tracking)
    )

"""`soco pretrain`: from images and their proposals to pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, find_result, locate, open_result
from soco_core.artifacts.stage import anew, complete, other_precision
from soco_core.config import Recipe, RuntimeConfig
from soco_core.console import say
from soco_core.engine.distributed import Processes
from soco_core.engine.together import in_common, run_together
from soco_core.errors import InputError
from soco_core.pretrain.proposed import as_proposed
from soco_core.tracking import Tracker, TrackingContext

if TYPE_CHECKING:
    from soco_core.pretrain.data import ViewDataset

CONTRACT = 2
PICTURED_IMAGES = 4


def pretrain(
    recipe: Recipe,
    *,
    proposals: str,
    output: str,
    images: str | None = None,
    tracking: TrackingContext | None = None,
) -> ResultDirectory:
    """Pretrain the networks of a recipe on an image set (paper 3, 4.1), in all processes that `torchrun` started.

    Args:
        recipe: the resolved recipe.
        proposals: result of `soco propose`, a directory or an S3 URI.
        output: root of all results.
        images: the images (a folder, an S3 URI or a pack), if they now lie elsewhere, or in another form, than when
            the proposals were made.
        tracking: where to track, or None.

    Returns:
        A result with ``pretrained.safetensors`` (the online network), ``metrics.jsonl``, ``checkpoints/``
        and ``figures/``; in the first process. The others end here, with its status. The recipe stored with it has
        the section `proposals` of the proposals; if the given one differs, that is warned of.

    Raises:
        InputError: the proposals are missing or belong to other images, or an image is missing or not what it was.
        InterruptedStageError: stopped by a signal, in whichever process, with its state saved.
        SocoError: the training diverged.
    """

    def lead(processes: Processes) -> ResultDirectory:
        proposed = open_result(proposals, stage="proposals")
        result = _locate(recipe, proposed, output)
        used, differing = as_proposed(recipe, proposed)
        if differing:
            say(f"warning: {differing}")

        def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
            from soco_core.artifacts.weights import PRETRAINED, save_weights
            from soco_core.pretrain.figures import draw_curves, draw_first_views
            from soco_core.pretrain.trainer import Trainer

            dataset = _open_dataset(recipe, images, proposed)
            if images is not None:
                _check_images(dataset, images, proposals)
            draw_first_views(result.path / "figures" / "views.png", dataset, PICTURED_IMAGES)
            with processes.computing():
                processes.in_turn(lambda: None)
                processes.check_same(in_common(recipe, Recipe.model_fields, the_proposals=proposed.fingerprint))
                trainer = processes.together(lambda: Trainer(recipe, dataset, processes, result, tracker))
                trainer.train()
            save_weights(result.path / PRETRAINED, trainer.weights(), {"fingerprint": result.fingerprint})
            draw_curves(result.path / "figures" / "loss.png", result.path)
            return trainer.summary(result)

        reused = result.done is not None
        complete(result, used, tracking, compute)
        if reused:
            for warning in otherwise_computed(result, recipe.runtime, processes.count):
                say(f"warning: {warning}")
        return result

    def open_inputs() -> tuple[ResultDirectory, ViewDataset]:
        proposed = open_result(proposals, stage="proposals")
        return proposed, _open_dataset(recipe, images, proposed)

    def follow(processes: Processes) -> None:
        from soco_core.pretrain.trainer import Trainer

        proposed, dataset = processes.in_turn(open_inputs)
        processes.check_same(in_common(recipe, Recipe.model_fields, the_proposals=proposed.fingerprint))
        processes.together(lambda: Trainer(recipe, dataset, processes)).train()

    return run_together(recipe.runtime.device, lead, follow)


def locate_pretraining(recipe: Recipe, proposals: str, output: str) -> ResultDirectory:
    """Find the result of a pretraining, whole or not; nothing of the proposals is fetched.

    Args:
        recipe: the resolved recipe.
        proposals: result of `soco propose`, a directory or an S3 URI.
        output: root of all results.

    Raises:
        InputError: `proposals` is not a finished result of that stage.
    """
    return _locate(recipe, find_result(proposals, stage="proposals"), output)


def otherwise_computed(result: ResultDirectory, runtime: RuntimeConfig, processes: int) -> list[str]:
    """Say what a finished pretraining was computed with that its name leaves out and that changes the numbers.

    Args:
        result: a whole one.
        runtime: what is asked for now.
        processes: how many there are now.

    Returns:
        One line each; none if the numbers are those of the recipe, or what is asked for.
    """
    summary, cap = result.summary, runtime.images_per_process
    lines: list[str] = []
    if "accumulation_steps" not in summary:  # an early result, which does not say how it was computed
        return lines
    attempts = summary.get("attempts", [summary])
    passes = max(attempt["accumulation_steps"] for attempt in attempts)
    batch_size = summary["batch_size"]
    if passes > 1:
        lines.append(
            f"pretrain: this result was computed in {passes} passes of each step: batch norm saw "
            f"{-(-batch_size // passes)} images at once, not the {batch_size} of the batch, which changed it. "
            + anew(result)
        )
    elif cap is not None and cap < summary["images_per_process"] and cap * processes < batch_size:
        lines.append(
            f"pretrain: this result was computed with whole batches of {batch_size} images, not in passes as "
            f"runtime.images_per_process ({cap}) asks for, which would change it. {anew(result)}"
        )
    used = ", then ".join(dict.fromkeys(attempt["precision"] for attempt in attempts))
    return [*lines, *other_precision(result, used, runtime.precision, "runtime.precision")]


def _locate(recipe: Recipe, proposed: ResultDirectory, output: str) -> ResultDirectory:
    sections = ("seed", "views", "model", "pretrain")
    return locate(output, "pretrain", CONTRACT, recipe, sections, {"proposals": proposed.fingerprint})


def _open_dataset(recipe: Recipe, images: str | None, proposed: ResultDirectory) -> ViewDataset:
    from soco_core.artifacts.proposals import Proposals
    from soco_core.images import open_source
    from soco_core.pretrain.data import ViewDataset

    boxes = Proposals.open(proposed)
    if images is None and not storage.is_s3(boxes.image_set) and not Path(boxes.image_set).is_dir():
        raise InputError(
            f"image folder {boxes.image_set}, for which the proposals {proposed.uri} were made, does not exist; give "
            "the images' new place with --images"
        )
    return ViewDataset(recipe, boxes, open_source(images or boxes.image_set))


def _check_images(dataset: ViewDataset, images: str, proposals: str) -> None:
    """Refuse images that are not those of the proposals."""
    from soco_core.images import source_fingerprint

    boxes = dataset.proposals
    # The ids are the proposals': nothing is listed, and what else lies there does not matter.
    found = source_fingerprint(dataset.source, boxes.all_ids(), boxes.fingerprint_mode)
    if found != boxes.image_set_fingerprint:
        raise InputError(
            f"{images}: not the images that the proposals {proposals} were made for (fingerprint {found}, "
            f"not {boxes.image_set_fingerprint}); give those, or run `soco propose` on these"
        )

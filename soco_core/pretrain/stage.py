"""`soco pretrain`: from images and their proposals to pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, locate, open_result
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 1
PICTURED_IMAGES = 4


def pretrain(
    recipe: Recipe,
    *,
    proposals: str,
    output: str,
    images: str | None = None,
    tracking: TrackingContext | None = None,
) -> ResultDirectory:
    """Pretrain SoCo-R50-FPN (or the size that the recipe asks for) on an image set (paper 3, 4.1).

    Args:
        recipe: the resolved recipe.
        proposals: result of `soco propose`, a directory or an S3 URI.
        output: root of all results.
        images: the images (a folder, an S3 URI or a pack), if they now lie elsewhere, or in another form, than when
            the proposals were made.
        tracking: where to track, or None.

    Returns:
        A result with ``pretrained.safetensors`` (the online network), ``metrics.jsonl``, ``checkpoints/``
        and ``figures/``.

    Raises:
        InputError: the proposals are missing or belong to other images, or an image is missing or not what it was.
        InterruptedStageError: stopped by a signal, with its state saved.
    """
    proposed = open_result(proposals, stage="proposals")
    result = locate(
        output,
        "pretrain",
        CONTRACT,
        recipe,
        ("seed", "views", "model", "pretrain"),
        {"proposals": proposed.fingerprint},
    )

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.artifacts.proposals import Proposals
        from soco_core.artifacts.weights import PRETRAINED, save_canonical
        from soco_core.images import open_source, source_fingerprint
        from soco_core.pretrain.data import ViewDataset
        from soco_core.pretrain.figures import draw_curves, draw_first_views
        from soco_core.pretrain.trainer import Trainer

        boxes = Proposals.open(proposed)
        if images is None and not storage.is_s3(boxes.image_set) and not Path(boxes.image_set).is_dir():
            raise InputError(
                f"image folder {boxes.image_set}, for which the proposals {proposals} were made, does not exist; give "
                "the images' new place with --images"
            )
        source = open_source(images or boxes.image_set)
        if images is not None:
            # The ids are the proposals': nothing is listed, and what else lies there does not matter.
            found = source_fingerprint(source, boxes.all_ids(), boxes.fingerprint_mode)
            if found != boxes.image_set_fingerprint:
                raise InputError(
                    f"{images}: not the images that the proposals {proposals} were made for (fingerprint {found}, "
                    f"not {boxes.image_set_fingerprint}); give those, or run `soco propose` on these"
                )
        dataset = ViewDataset(recipe, boxes, source)
        draw_first_views(result.path / "figures" / "views.png", dataset, PICTURED_IMAGES)
        trainer = Trainer(recipe, dataset, result, tracker)
        summary = trainer.train()
        save_canonical(result.path / PRETRAINED, trainer.weights(), {"fingerprint": result.fingerprint})
        draw_curves(result.path / "figures" / "loss.png", result.path / "metrics.jsonl")
        return summary

    return complete(result, recipe, tracking, compute)

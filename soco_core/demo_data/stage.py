"""The stage `demo_data`: a small COCO-format data set, and images to pretrain on, all rendered."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.engine.progress import Progress
from soco_core.storage import write_bytes, write_text
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 1
TRAIN, VAL, UNLABELLED = range(3)
FIRST_VAL_ID = 500_001
"""Far beyond the training images, so that their number changes no name of a validation image."""
JPEG_QUALITY = 92


def demo_data(recipe: Recipe, *, output: str, tracking: TrackingContext | None = None) -> ResultDirectory:
    """Render the demo's images.

    The result holds ``images/NNNNNN.jpg``, ``annotations/instances_{train,val}.json`` (COCO format) and
    ``unlabelled/NNNNNN.jpg``. An image depends on the seed, its split and its number alone.

    Args:
        recipe: the resolved recipe; `seed` and `demo_data` determine the result.
        output: root of all results, a local directory or an S3 URI.
        tracking: where to track, or None.
    """
    result = locate(output, "demo_data", CONTRACT, recipe, ("seed", "demo_data"), {})

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        return _compute(recipe, result.path)

    return complete(result, recipe, tracking, compute)


def _compute(recipe: Recipe, folder: Path) -> dict[str, Any]:
    settings = recipe.demo_data
    total = settings.train_images + settings.val_images + settings.unlabelled_images
    with Progress("demo_data", total, unit="images") as progress:
        train = _labelled(recipe, folder, TRAIN, 1, settings.train_images, progress)
        val = _labelled(recipe, folder, VAL, FIRST_VAL_ID, settings.val_images, progress)
        for number in range(1, settings.unlabelled_images + 1):
            _scene(recipe, UNLABELLED, number, folder / "unlabelled" / f"{number:06d}.jpg")
            progress.advance()
    for split, content in (("train", train), ("val", val)):
        write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(content))
    return {
        "train_images": settings.train_images,
        "train_objects": len(train["annotations"]),
        "val_images": settings.val_images,
        "val_objects": len(val["annotations"]),
        "unlabelled_images": settings.unlabelled_images,
        "categories": len(train["categories"]),
    }


def _labelled(
    recipe: Recipe, folder: Path, split: int, first: int, count: int, progress: Progress
) -> dict[str, list[dict[str, Any]] | dict[str, Any]]:
    from soco_core.demo_data.annotations import annotation, categories

    size = recipe.demo_data.image_size
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(first, first + count):
        name = f"{number:06d}.jpg"
        for item in _scene(recipe, split, number, folder / "images" / name):
            annotations.append(annotation(item, len(annotations) + 1, number))
        images.append({"id": number, "file_name": name, "width": size, "height": size})
        progress.advance()
    return {
        "info": {"description": "rendered scenes of `soco demo-data`", "version": str(CONTRACT)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories(),
    }


def _scene(recipe: Recipe, split: int, number: int, path: Path) -> list[Any]:
    """Render and write one image; return its objects."""
    import numpy as np
    from PIL import Image

    from soco_core.demo_data.scene import render

    pixels, objects = render(np.random.default_rng((recipe.seed, split, number)), recipe.demo_data.image_size)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    write_bytes(path, file.getvalue())
    return objects

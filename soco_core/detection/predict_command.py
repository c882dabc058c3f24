"""What `soco predict` does: a finetuned detector on images of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from soco_core.artifacts.result import RECIPE, ResultDirectory, open_result
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.datasets.split import LabelledSplit
from soco_core.detection.stage import CATEGORIES, WEIGHTS
from soco_core.errors import InputError
from soco_core.images import BadImageError, decode_image
from soco_core.recipes import load_recipe
from soco_core.storage import is_s3, write_text

PREDICTIONS = "predictions.json"
IMAGES = "images.json"
DRAWINGS = "drawings"


def predict_images(weights: str, images: list[str], *, output: str, score: float = 0.5) -> Path:
    """Find objects in images and draw them.

    Writes ``predictions.json`` (COCO results: every detection above the recipe's `finetune.score_threshold`),
    ``images.json`` (the images and categories that its ids refer to, in COCO's format) and ``drawings/NAME.png``.

    Args:
        weights: a result of `soco finetune`, its directory, its URI, or its ``model.safetensors``.
        images: image files and folders of them, of any depth.
        output: folder to write to; files of the same names are replaced.
        score: only detections of this score or more are drawn.

    Returns:
        The file of the predictions.

    Raises:
        InputError: `weights` is no such result, `images` holds no image that can be decoded, or `output` cannot be
            written; files that are no images are named and left out.
    """
    import torch
    from safetensors.torch import load_file

    from soco_core.detection.engines import build_engine_detector
    from soco_core.detection.evaluate import predict
    from soco_core.detection.figures import draw_found
    from soco_core.engine.setup import choose_device

    if not 0 <= score <= 1:
        raise InputError(f"--score {score}: a score lies between 0 and 1")
    result, recipe = _open(weights)
    categories = json.loads((result.path / CATEGORIES).read_text(encoding="utf-8"))
    split = _split(images, categories, recipe.images.max_pixels)
    chosen = choose_device("auto")
    model = build_engine_detector(recipe, len(categories))
    model.load_state_dict(load_file(result.path / WEIGHTS))
    with torch.inference_mode():
        found = predict(model.to(chosen), split, recipe, chosen)

    folder = Path(output)
    try:
        write_text(folder / PREDICTIONS, json.dumps(found))
        write_text(folder / IMAGES, json.dumps({"images": split.images, "categories": categories}, indent=2) + "\n")
        for position, record in enumerate(split.images):
            shown = [item for item in found if item["image_id"] == record["id"] and item["score"] >= score]
            draw_found(split, position, shown, folder / DRAWINGS / f"{_drawing(record)}.png")
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from error
    drawn = sum(item["score"] >= score for item in found)
    say(f"predict: {len(split.images)} images, {len(found)} detections, {drawn} of score {score:g} or more drawn")
    return folder / PREDICTIONS


def _open(weights: str) -> tuple[ResultDirectory, Recipe]:
    place = str(Path(weights).parent) if not is_s3(weights) and Path(weights).name == WEIGHTS else weights
    result = open_result(place, stage="finetune")
    if not (result.path / CATEGORIES).is_file():
        raise InputError(f"{result.uri}: has no {CATEGORIES}; finetune again with this version of soco")
    return result, load_recipe(str(result.path / RECIPE))


def _split(images: list[str], categories: list[dict[str, Any]], max_pixels: int) -> LabelledSplit:
    """Return the images that can be decoded as a split without annotations; the others are named."""
    records: list[dict[str, Any]] = []
    sizes: list[int] = []
    for path in _files(images):
        try:
            data = path.read_bytes()
            height, width = decode_image(data, max_pixels).shape[:2]
        except (BadImageError, OSError) as error:
            say(f"predict: {path}: left out ({error})")
            continue
        records.append({"id": len(records) + 1, "file_name": str(path.resolve()), "width": width, "height": height})
        sizes.append(len(data))
    if not records:
        raise InputError(f"{', '.join(images)}: no image that can be decoded; give image files or folders of them")
    return LabelledSplit("coco", IMAGES, "", records, [], categories, "", tuple(sizes))


def _files(images: list[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for place in map(Path, images):
        if not place.exists():
            raise InputError(f"{place}: no such file or folder; give image files or folders of them")
        if place.is_dir():
            found |= dict.fromkeys(sorted(path for path in place.rglob("*") if path.is_file()))
        else:
            found[place] = None
    return list(found)


def _drawing(record: dict[str, Any]) -> str:
    """Name of an image's drawing: its number keeps images of one name in different folders apart."""
    return f"{record['id']:05}-{Path(record['file_name']).stem}"

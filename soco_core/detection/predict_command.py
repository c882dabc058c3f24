"""What `soco predict` does: a finetuned detector on images of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from soco_core.artifacts.disk import why_not_written
from soco_core.artifacts.result import RECIPE, ResultDirectory, open_result
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.datasets.split import LabelledSplit
from soco_core.detection.stage import CATEGORIES, WEIGHTS
from soco_core.errors import InputError
from soco_core.images import BadImageError, decode_image
from soco_core.images.trees import open_tree
from soco_core.recipes import load_recipe
from soco_core.storage import is_s3, join, read_bytes, write_bytes, write_text

PREDICTIONS = "predictions.json"
IMAGES = "images.json"
DRAWINGS = "drawings"
LONGEST_STEM = 120
"""Bytes of an image's name in its drawing's: a file system takes 255, and an atomic write adds some."""


class _Anywhere(LabelledSplit):
    """Images that lie in no common folder: a file's name is its whole path or URI."""

    def image_uri(self, image: dict[str, Any]) -> str:
        return str(image["file_name"])


def predict_images(weights: str, images: list[str], *, output: str, score: float = 0.5) -> str:
    """Find objects in images and draw them.

    Writes ``predictions.json`` (COCO results: every detection above the recipe's `finetune.score_threshold`),
    ``images.json`` (the images and categories that its ids refer to, in COCO's format) and ``drawings/NAME.png``.

    Args:
        weights: a result of `soco finetune`, its directory, its URI, or its ``model.safetensors``.
        images: image files and folders of them, of any depth, without hidden files; paths and S3 URIs.
        output: folder or S3 URI to write to; files of the same names are replaced.
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
    from soco_core.engine.distributed import Processes

    if not 0 <= score <= 1:
        raise InputError(f"--score {score}: a score lies between 0 and 1")
    result, recipe = _open(weights)
    categories = json.loads((result.path / CATEGORIES).read_text(encoding="utf-8"))
    split = _split(images, output, categories, recipe.images.max_pixels)
    _check_output(output)
    alone = Processes("auto")
    model = build_engine_detector(recipe, len(categories))
    model.load_state_dict(load_file(result.path / WEIGHTS))
    with torch.inference_mode():
        found = predict(model.to(alone.device), split, recipe, alone)

    try:
        write_text(join(output, PREDICTIONS), json.dumps(found))
        content = {"images": split.images, "categories": categories}
        write_text(join(output, IMAGES), json.dumps(content, indent=2) + "\n")
        for position, record in enumerate(split.images):
            shown = [item for item in found if item["image_id"] == record["id"] and item["score"] >= score]
            drawing = draw_found(split, position, shown, recipe.images.max_pixels)
            write_bytes(join(output, DRAWINGS, f"{_drawing(record)}.png"), drawing)
    except OSError as error:
        raise _cannot_write(output, error) from error
    drawn = sum(item["score"] >= score for item in found)
    looked = "1 image" if len(split.images) == 1 else f"{len(split.images)} images"
    say(f"predict: {looked}, {len(found)} detections, {drawn} of score {score:g} or more drawn")
    return join(output, PREDICTIONS)


def _check_output(output: str) -> None:
    """Refuse a folder that cannot be written before hours are spent on what would go there."""
    if is_s3(output):
        return
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise _cannot_write(output, error) from error


def _cannot_write(output: str, error: OSError) -> InputError:
    why = why_not_written(Path(output, PREDICTIONS), error)
    return InputError(f"--output {output}: cannot be written ({why}); name another folder")


def _open(weights: str) -> tuple[ResultDirectory, Recipe]:
    place = weights
    if weights.rpartition("/")[2] == WEIGHTS:
        place = weights.rpartition("/")[0] if is_s3(weights) else str(Path(weights).parent)
    result = open_result(place, stage="finetune")
    if not (result.path / CATEGORIES).is_file():
        raise InputError(f"{result.uri}: has no {CATEGORIES}; finetune again with this version of soco")
    return result, load_recipe(str(result.path / RECIPE))


def _split(images: list[str], output: str, categories: list[dict[str, Any]], max_pixels: int) -> LabelledSplit:
    """Return the images that can be decoded as a split without annotations; the others are named."""
    records: list[dict[str, Any]] = []
    sizes: list[int] = []
    for uri in dict.fromkeys(_files(images, output)):
        try:
            data = read_bytes(uri)
            height, width = decode_image(data, max_pixels).shape[:2]
        except (BadImageError, InputError) as error:
            if isinstance(error, InputError) and is_s3(uri):  # what the store lacks or withholds was asked for
                raise
            say(f"predict: {uri}: left out ({error})")
            continue
        records.append(
            {
                "id": len(records) + 1,
                "file_name": uri,
                "width": width,
                "height": height,
            }
        )
        sizes.append(len(data))
    if not records:
        raise InputError(f"{', '.join(images)}: no image that can be decoded; give image files or folders of them")
    return _Anywhere("coco", IMAGES, "", records, [], categories, "", tuple(sizes))


def _files(images: list[str], output: str) -> Iterator[str]:
    """Yield the images, each once: absolute paths, and URIs. What an earlier prediction drew is not among them."""
    own = None if is_s3(output) else Path(output).resolve()
    drawn = output.rstrip("/") + "/"
    for place in images:
        if is_s3(place):
            # A prefix is a folder; an object has nothing below it.
            below = [uri for name in open_tree(place).images("") if not (uri := join(place, name)).startswith(drawn)]
            yield from below or [place]
        elif Path(place).is_dir():
            root = Path(place).resolve()
            files = (root / name for name in open_tree(place).images(""))
            yield from (str(file) for file in sorted(files) if own is None or not file.is_relative_to(own))
        elif Path(place).exists():
            yield str(Path(place).resolve())
        else:
            raise InputError(f"{place}: no such file or folder; give image files or folders of them")


def _drawing(record: dict[str, Any]) -> str:
    """Name of an image's drawing: its number keeps images of one name in different folders apart."""
    stem = Path(record["file_name"]).stem.encode()[:LONGEST_STEM].decode(errors="ignore")
    return f"{record['id']:05}-{stem}"

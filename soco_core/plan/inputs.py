"""Checks of a pipeline's inputs that cost seconds, made before hours are spent."""

from __future__ import annotations

from pathlib import Path

from soco_core import storage
from soco_core.config import DatasetsConfig, ImagesConfig, Recipe
from soco_core.datasets.open_set import locate
from soco_core.datasets.published import NAMED, Named
from soco_core.errors import InputError
from soco_core.images import open_image_set
from soco_core.images.subset import is_file


def with_absolute_files(recipe: Recipe) -> Recipe:
    """Return a recipe whose files are named by absolute paths, for stages that work in other folders."""
    subset, boxes = recipe.images.subset, recipe.proposals.boxes_file
    places = {name: absolute(place) if place else place for name, place in recipe.datasets}
    return recipe.model_copy(
        update={
            "datasets": recipe.datasets.model_copy(update=places),
            "images": recipe.images.model_copy(update={"subset": absolute(subset) if is_file(subset) else subset}),
            "proposals": recipe.proposals.model_copy(update={"boxes_file": absolute(boxes)}),
        }
    )


def absolute(path: str) -> str:
    """Return the absolute form of a local path; an S3 URI and an empty path are what they are."""
    return str(Path(path).resolve()) if path and not storage.is_s3(path) else path


def check_images(images: str, config: ImagesConfig) -> int:
    """Return the number of images to pretrain on; layout, splits and subset are the recipe's.

    Raises:
        InputError: the image set is missing, or holds no image.
    """
    return len(open_image_set(images, config).ids)


def look_at_images(images: str, config: ImagesConfig) -> None:
    """Look whether an image set is there, in seconds: on S3, only whether anything lies at its URI.

    Raises:
        InputError: it is not, or (on a local disk) it holds no image.
    """
    if not storage.is_s3(images):
        check_images(images, config)
    elif next(storage.list_objects(images), None) is None:
        raise InputError(f"{images}: nothing lies there; give the URI of a folder of images or of a pack")


def named_coco(coco: str) -> Named | None:
    """Return the data set of a name such as ``mini-coco-5``; None for a folder, as ``./mini-coco-5`` always is."""
    return next((item for item in NAMED if item.name == coco), None)


def check_coco(coco: str, config: DatasetsConfig) -> None:
    """Look whether the data set is there; what is in it is checked by the stage that reads it.

    Args:
        coco: folder of a COCO-format data set, the S3 URI of one that soco rendered, or a name.
        config: where the data sets of a name lie.

    Raises:
        InputError: there is no such folder, or nobody says where the data set lies.
    """
    item = named_coco(coco)
    coco = locate(item.root, config) if item else coco
    if not storage.is_s3(coco) and not Path(coco).is_dir():
        problem = "is a file" if Path(coco).exists() else "does not exist"
        raise InputError(f"COCO folder {coco} {problem}; give the folder that holds annotations/ and the images")


def check_weights(supervised: str) -> None:
    """Look whether a file of weights is there.

    Raises:
        InputError: it is not.
    """
    if not _is_file(supervised):
        raise InputError(f"weights file {supervised} does not exist; give a file or its s3:// URI, or leave it out")


def check_boxes_file(recipe: Recipe) -> None:
    """Look whether the file is there that the engine `import` reads.

    Raises:
        InputError: it is not.
    """
    path = recipe.proposals.boxes_file
    if path and not _is_file(path):
        raise InputError(
            f"proposals.boxes_file: {path} does not exist; give the path or s3:// URI of a JSON file of boxes"
        )


def _is_file(path: str) -> bool:
    return storage.exists(path) if storage.is_s3(path) else Path(path).is_file()

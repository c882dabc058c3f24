"""Checks of a pipeline's inputs that cost seconds, made before hours are spent."""

from __future__ import annotations

from pathlib import Path

from soco_core.errors import InputError
from soco_core.images.folder import open_image_set
from soco_core.storage import is_s3


def check_images(images: str) -> int:
    """Return the number of image files in a folder to pretrain on.

    Raises:
        InputError: the folder is missing, or holds no image.
    """
    return len(open_image_set(images).ids)


def check_coco(coco: str) -> None:
    """Look whether the data set is there; what is in it is checked by the stage that reads it.

    Args:
        coco: folder of a COCO-format data set, or the S3 URI of one that soco rendered.

    Raises:
        InputError: there is no such folder.
    """
    if not is_s3(coco) and not Path(coco).is_dir():
        problem = "is a file" if Path(coco).exists() else "does not exist"
        raise InputError(f"COCO folder {coco} {problem}; give the folder that holds annotations/ and the images")


def check_weights(supervised: str) -> None:
    """Look whether a file of weights is there.

    Raises:
        InputError: it is not.
    """
    if not Path(supervised).is_file():
        raise InputError(f"weights file {supervised} does not exist; give a file, or leave it out")

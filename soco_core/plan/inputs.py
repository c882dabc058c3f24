"""Checks of a pipeline's inputs that cost seconds, made before hours are spent."""

from __future__ import annotations

from pathlib import Path

from soco_core.errors import InputError
from soco_core.images.folder import open_image_set
from soco_core.storage import is_s3


def check_inputs(*, images: str, coco: str, supervised: str = "") -> int:
    """Look whether the inputs are there; their contents are for the stages that read them.

    Args:
        images: folder of images to pretrain on.
        coco: folder of a COCO-format data set, or the S3 URI of one that soco rendered.
        supervised: file of ImageNet-supervised weights; empty for none.

    Returns:
        The number of image files to pretrain on.

    Raises:
        InputError: a folder or file is missing or empty.
    """
    found = open_image_set(images)
    if not is_s3(coco) and not Path(coco).is_dir():
        problem = "is a file" if Path(coco).exists() else "does not exist"
        raise InputError(f"COCO folder {coco} {problem}; give the folder that holds annotations/ and the images")
    if supervised and not Path(supervised).is_file():
        raise InputError(f"weights file {supervised} does not exist; give a file, or leave it out")
    return len(found.ids)

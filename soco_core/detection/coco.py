"""The data set that a detector is finetuned on, opened and checked as a whole before anything is computed on it."""

from __future__ import annotations

from pathlib import Path

from soco_core.artifacts.result import open_result
from soco_core.config import DatasetsConfig
from soco_core.datasets.open_set import open_dataset, open_named
from soco_core.datasets.published import NAMED
from soco_core.datasets.split import LabelledDataset
from soco_core.errors import InputError
from soco_core.storage import is_s3


def open_coco(place: str) -> LabelledDataset:
    """Open and check a COCO-format data set.

    Args:
        place: a folder that holds ``annotations/instances_{train,val}.json`` (or ``..._train2017.json``)
            and the images in ``images``, in ``train2017`` and ``val2017``, or in itself; or the S3 URI of a
            finished `demo_data` result.

    Raises:
        InputError: a folder or file is missing, is not COCO's format, or contradicts itself.
    """
    root = str(open_result(place, stage="demo_data").path) if is_s3(place) else place
    return open_dataset(root, "coco")


def open_finetuning_data(coco: str, config: DatasetsConfig) -> LabelledDataset:
    """Open what :func:`open_coco` opens, or one of COCO's data sets by its name, such as ``mini-coco-5``.

    Args:
        coco: a place, or a name; a folder of that name is taken first.
        config: where the data sets lie.

    Raises:
        InputError: as :func:`open_coco`; nobody says where COCO lies; the name is of a set in another format.
    """
    item = next((item for item in NAMED if item.name == coco), None)
    if item is None or Path(coco).is_dir():
        return open_coco(coco)
    if item.kind != "coco":
        names = ", ".join(item.name for item in NAMED if item.kind == "coco")
        raise InputError(f"{coco}: Mask R-CNN is finetuned on COCO's masks; give a folder in its format, or {names}")
    return open_named(coco, config)

"""The data set that a detector is finetuned on, opened and checked as a whole before anything is computed on it."""

from __future__ import annotations

from soco_core.artifacts.result import open_result
from soco_core.datasets.open_set import open_dataset
from soco_core.datasets.split import LabelledDataset
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

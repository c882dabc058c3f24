"""The data set that a detector is finetuned on, opened and checked as a whole before anything is computed on it."""

from __future__ import annotations

from pathlib import Path

from soco_core.artifacts.result import DONE, open_result
from soco_core.benchmarks.table import find_benchmark
from soco_core.config import Recipe
from soco_core.datasets.open_set import check_list, images_of_lvis, is_place, kind_of, open_dataset, open_named
from soco_core.datasets.published import NAMED
from soco_core.datasets.split import LabelledDataset, LabelledSplit, trainable_images
from soco_core.errors import InputError
from soco_core.storage import exists, is_s3, join


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


def open_finetuning_data(coco: str, recipe: Recipe, data: str | None = None) -> LabelledDataset:
    """Open the data set that a detector is finetuned and evaluated on.

    Args:
        coco: a folder or S3 URI in COCO's, VOC's or LVIS's layout, the S3 URI of a `demo_data` result, or a name such
            as ``mini-coco-5``; a folder that is called so is ``./mini-coco-5``. Empty: what the recipe's benchmark is
            of.
        recipe: its sections `finetune` and `datasets` are used.
        data: where data sets lie by their names (``--data``), before the recipe's `datasets`.

    Raises:
        InputError: there is no such data set, or it is not what it should be; the benchmark is not one of the paper's
            and `coco` is empty; the detector needs masks, and the data set has none; there is nothing to train on;
            ``datasets.image_ids`` is given, and the data set takes no list.
    """
    opened = _open(coco, recipe, data)
    if recipe.finetune.has_masks:
        for split in (opened.train, opened.val):
            _check_masks(split, recipe.finetune.detector)
    trainable_images(opened.train, recipe.finetune.has_masks)
    return opened


def _open(coco: str, recipe: Recipe, data: str | None) -> LabelledDataset:
    name = coco or data_of_benchmark(recipe)
    place = is_s3(name) or (is_place(name) and Path(name).is_dir())
    if place:
        check_list(None, recipe.datasets)
    if is_s3(name) and exists(join(name, DONE)):
        return open_coco(name)
    kind = kind_of(name) if place else next((item.kind for item in NAMED if item.name == name), None)
    if kind == "voc" and recipe.finetune.has_masks:
        raise InputError(
            f"{name}: Pascal VOC has no masks to train {recipe.finetune.detector} on; choose a detector of boxes, such "
            "as --benchmark voc-c4 or --set finetune.detector=faster-rcnn-c4"
        )
    if not place:
        return open_named(name, recipe.datasets, data)
    match kind:
        case "lvis":
            return open_dataset(name, "lvis", images_of_lvis(name, recipe.datasets, data))
        case "voc":
            return open_dataset(name, "voc")
        case "coco" if is_s3(name):
            return open_dataset(name, "coco")
        case _:
            return open_coco(name)


def _check_masks(split: LabelledSplit, detector: str) -> None:
    objects = [item for item in split.annotations if not item["iscrowd"]]
    if objects and not any(item.get("segmentation") for item in objects):
        raise InputError(
            f"{split.annotation_file}: no object has a mask (`segmentation`) to train {detector} on; choose a detector "
            "of boxes: --set finetune.detector=retinanet, fcos or faster-rcnn-c4"
        )
    # Crowds too: the evaluation ignores what lies in their masks.
    bare = [item["id"] for item in split.annotations if "segmentation" not in item]
    if bare:
        raise InputError(
            f"{split.annotation_file}: annotation of id {bare[0]} has no 'segmentation' for {detector} ({len(bare)} of "
            f"{len(split.annotations)} have none); add it, or choose a detector of boxes: "
            "--set finetune.detector=retinanet, fcos or faster-rcnn-c4"
        )


def data_of_benchmark(recipe: Recipe) -> str:
    """Return the name of the data set that the recipe's benchmark is of.

    Raises:
        InputError: the benchmark is not one of the paper's.
    """
    benchmark = find_benchmark(recipe.finetune.benchmark)
    if benchmark is None:
        raise InputError(
            f"finetune.benchmark: {recipe.finetune.benchmark} is not one of the paper's, so it names no data set; give "
            "its folder by --coco"
        )
    return benchmark.data

"""The page of validation images: what is there above, what was found below."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soco_core.datasets.split import LabelledSplit
from soco_core.detection.coco import open_coco
from soco_core.detection.figures import draw_detections
from soco_core.detection.masks import encode_rle
from tests.detection.conftest import CocoFolder

BOX = {"image_id": 11, "category_id": 7, "bbox": [12.0, 8.0, 16.0, 14.0], "score": 0.9}


@pytest.fixture
def val(coco_folder: CocoFolder) -> LabelledSplit:
    return open_coco(coco_folder.write()).val


def halves(
    split: LabelledSplit, predictions: list[dict[str, Any]], folder: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The upper and the lower half of the page."""
    draw_detections(split, predictions, folder / "page.png")
    page = np.asarray(Image.open(folder / "page.png").convert("RGB"))
    middle = len(page) // 2
    return page[:middle], page[middle:]


def test_names_are_no_formulas(val: LabelledSplit, tmp_path: Path) -> None:
    """``$_$`` is none that matplotlib knows."""
    val = val.part({BOX["image_id"]}, "one image")
    (image,) = val.images
    shutil.copy(val.image_uri(image), tmp_path / "$_$.jpg")
    images = [{**image, "file_name": "$_$.jpg"}]
    names = replace(val, categories=[{**category, "name": "$\\foo$"} for category in val.categories])
    draw_detections(replace(names, images=images, folder=str(tmp_path)), [BOX], tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000


def test_what_was_found_is_drawn_below(val: LabelledSplit, tmp_path: Path) -> None:
    above, below = halves(val, [], tmp_path)
    pages = [below]
    mask = np.zeros((30, 40), bool)
    mask[9:20, 14:26] = True
    other = {**BOX, "category_id": 3}
    for found in ([BOX], [{**BOX, "segmentation": encode_rle(mask)}], [other], [BOX, {**BOX, "image_id": 12}]):
        upper, lower = halves(val, found, tmp_path)
        assert np.array_equal(upper, above)
        assert not any(np.array_equal(lower, page) for page in pages)
        pages.append(lower)
    # What is unlikely would only hide the others.
    assert np.array_equal(halves(val, [{**BOX, "score": 0.49}], tmp_path)[1], below)


def test_what_is_there_is_drawn_above(val: LabelledSplit, tmp_path: Path) -> None:
    above, below = halves(val, [BOX], tmp_path)
    (boxed, *others) = val.annotations
    without_mask = replace(val, annotations=[{**boxed, "segmentation": []}, *others])
    for fewer in (replace(val, annotations=others), without_mask):
        upper, lower = halves(fewer, [BOX], tmp_path)
        assert np.array_equal(lower, below)
        assert not np.array_equal(upper, above)

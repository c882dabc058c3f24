from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from soco_core.datasets.split import LabelledSplit
from soco_core.detection.sampling import image_batches, repeat_factors


def labelled(categories_of: list[list[int]], widths: list[int] | None = None) -> LabelledSplit:
    """A split whose image i holds one object of each category in ``categories_of[i]``."""
    widths = widths or [60] * len(categories_of)
    annotations = [
        {
            "id": 100 * image + number,
            "image_id": image,
            "category_id": category,
            "bbox": [1, 1, 10, 10],
            "area": 100,
            "iscrowd": 0,
            "difficult": 0,
            "segmentation": [[1, 1, 11, 1, 11, 11, 1, 11]],
        }
        for image, categories in enumerate(categories_of)
        for number, category in enumerate(categories)
    ]
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": width, "height": 50}
        for number, width in enumerate(widths)
    ]
    return LabelledSplit(
        format="coco",
        annotation_file="made.json",
        digest="0",
        images=images,
        annotations=annotations,
        categories=[{"id": number, "name": str(number)} for number in (1, 2, 3)],
        folder="nowhere",
        sizes=(1,) * len(images),
    )


def test_repeat_factors_by_hand() -> None:
    # 8 images; category 1 in 8, 2 in 2, 3 in 1. Threshold .5: 1; sqrt(.5 / .25) = sqrt 2; sqrt(.5 / .125) = 2.
    split = labelled([[1], [1], [1], [1], [1], [1, 2], [1, 2, 3], [1, 1]])
    factors = repeat_factors(split, list(range(8)), 0.5)
    assert factors == pytest.approx([1, 1, 1, 1, 1, 2**0.5, 2, 1])


def test_only_the_images_that_are_trained_on_are_counted() -> None:
    # Of the images 0 and 1, half have category 2: sqrt(1 / .5) at threshold 1.
    factors = repeat_factors(labelled([[1], [1, 2], [], [2]]), [0, 1], 1.0)
    assert factors == pytest.approx([1, 2**0.5])


def test_factors_hold_on_average() -> None:
    split = labelled([[1], [1], [1], [1], [1], [1, 2], [1, 2, 3], [1]])
    seen: Counter[int] = Counter()
    # An epoch has 7 + sqrt 2 + 2 - 1 = 9.41 images on average.
    batches = list(islice(image_batches(split, list(range(8)), 1, 0, 0.5), 9414))
    for [position] in batches:
        seen[position] += 1
    ordinary = np.mean([seen[number] for number in (0, 1, 2, 3, 4, 7)])
    assert seen[5] / ordinary == pytest.approx(2**0.5, abs=0.03)
    assert seen[6] / ordinary == pytest.approx(2, abs=0.01)


def test_without_a_threshold_an_epoch_has_every_image_once() -> None:
    split = labelled([[1]] * 6)
    batches = list(islice(image_batches(split, [0, 1, 2, 3, 5], 1, 3), 10))
    assert sorted(position for [position] in batches[:5]) == [0, 1, 2, 3, 5]
    assert sorted(position for [position] in batches[5:]) == [0, 1, 2, 3, 5]
    assert batches[:5] != batches[5:]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_order_is_a_function_of_the_seed(threshold: float) -> None:
    split = labelled([[1], [1, 2], [1], [3]])

    def order(seed: int) -> list[list[int]]:
        return list(islice(image_batches(split, [0, 1, 2, 3], 2, seed, threshold), 8))

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_shapes_do_not_mix() -> None:
    widths = [60, 40, 60, 40, 60, 40, 60]
    split = labelled([[1]] * 7, widths)
    for batch in islice(image_batches(split, list(range(7)), 2, 0), 30):
        assert len({widths[position] > 50 for position in batch}) == 1

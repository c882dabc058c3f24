"""What the evaluator takes, what it refuses, and what it says where there is nothing to say."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest

from soco_core.errors import InputError
from soco_core.evaluation import evaluate
from tests.evaluation.references import detection, make_split

LEFT, RIGHT = [0.0, 0, 20, 20], [30.0, 30, 20, 20]
KINDS = ["coco", "lvis", "voc"]


def split_of(kind, objects=((10, 1, LEFT), (20, 2, RIGHT))):
    return make_split(list(objects), kind=kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 11}, "predictions[1].image_id: 11 is no image of the split"),
        ({"image_id": [10]}, "predictions[1].image_id: [10] is no image"),
        ({"category_id": 4}, "predictions[1].category_id: 4 is no category of the split"),
        ({"category_id": 0}, "predictions[1].category_id: 0 is no category of the split"),
        ({"score": math.nan}, "predictions[1].score: nan is not a finite number"),
        ({"score": math.inf}, "predictions[1].score: inf is not a finite number"),
        ({"score": "0.5"}, "predictions[1].score: '0.5' is not a finite number"),
        ({"score": 10**400}, "predictions[1].score: 1000"),
        ({"score": None}, "predictions[1].score: None is not a finite number"),
        ({"bbox": [0, 0, 5]}, "predictions[1].bbox: [0, 0, 5] is not [x, y, width, height]"),
        ({"bbox": [0, 0, 5, 5, 5]}, "predictions[1].bbox: [0, 0, 5, 5, 5] is not"),
        ({"bbox": [0, 0, 5, math.nan]}, "predictions[1].bbox: [0, 0, 5, nan] is not"),
        ({"bbox": [0, -math.inf, 5, 5]}, "predictions[1].bbox: [0, -inf, 5, 5] is not"),
        ({"bbox": [0, 0, -1, 5]}, "predictions[1].bbox: [0, 0, -1, 5] is not"),
        ({"bbox": None}, "predictions[1].bbox: None is not"),
        ({"segmentation": [[0, 0, 5, 0, 5, 5]]}, "predictions[1].segmentation: is not compressed RLE of the image's"),
        ({"segmentation": {"size": [120, 100], "counts": b"0"}}, "predictions[1].segmentation: is not compressed RLE"),
        ({"segmentation": {"size": [100, 120], "counts": [0, 12000]}}, "predictions[1].segmentation: is not"),
        ({"segmentation": {"size": [100.0, 120.0], "counts": b"0"}}, "predictions[1].segmentation: is not"),
        ({"segmentation": {"size": 100, "counts": b"0"}}, "predictions[1].segmentation: is not compressed RLE"),
    ],
)
def test_a_wrong_prediction_is_named(change, message):
    fine = detection(10, 1, LEFT, 0.5)
    with pytest.raises(InputError) as error:
        evaluate(split_of("coco"), [fine, {**fine, **change}, fine])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_wrong_prediction_is_named():
    fine = detection(10, 1, LEFT, 0.5)
    with pytest.raises(InputError, match=r"predictions\[1\].score: nan"):
        evaluate(split_of("coco"), [fine, {**fine, "score": math.nan}, {**fine, "image_id": 11}])
    # Three and five numbers are as many as those of two boxes.
    with pytest.raises(InputError, match=r"predictions\[0\].bbox: \[0, 0, 5\]"):
        evaluate(split_of("coco"), [{**fine, "bbox": [0, 0, 5]}, {**fine, "bbox": [0, 0, 5, 5, 5]}])


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score", "segmentation"])
def test_a_missing_key_is_named(key):
    fine = detection(10, 1, LEFT, 0.5)
    wrong = {name: value for name, value in fine.items() if name != key}
    with pytest.raises(InputError, match=rf"predictions\[1\]: has no '{key}'"):
        evaluate(split_of("coco"), [fine, wrong])
    with pytest.raises(InputError, match=r"predictions\[0\]: 'detection' is no detection"):
        evaluate(split_of("coco"), ["detection"])


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_asked_for_or_not(kind):
    split = split_of(kind)
    bare = {key: value for key, value in detection(10, 1, LEFT, 0.5).items() if key != "segmentation"}
    result = evaluate(split, [bare], masks=False)
    assert not [name for name in result.columns if name.startswith("APmk")]
    assert list(result.details) == ["boxes", "categories"]
    assert result.columns["APbb"] == pytest.approx(50.0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_detection_is_zero(kind):
    result = evaluate(split_of(kind), [])
    numbers = {name: value for name, value in result.columns.items() if name[-1] != "f"}  # no frequent category
    assert set(numbers.values()) == {0.0}
    assert result.columns.get("APbbf") is None
    assert result.details["categories"]["boxes"] == {"class1": 0.0, "class2": 0.0, "class3": None}
    for name, value in result.details["boxes"].items():
        assert value == (None if name.endswith(("medium", "large", "f")) else 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("found", [[], [detection(10, 1, LEFT, 0.5)]])
def test_nothing_to_find_is_none(kind, found):
    result = evaluate(split_of(kind, []), found)
    assert set(result.columns.values()) == {None}
    assert set(result.details["boxes"].values()) == {None}
    assert set(result.details["categories"]["boxes"].values()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_itself_is_perfect_and_nothing_is_changed(kind):
    split = split_of(kind)
    found = [detection(10, 1, LEFT, 0.5), detection(20, 2, RIGHT, 0.5)]
    before = copy.deepcopy((split, found))
    result = evaluate(split, found)
    assert [value for value in result.columns.values() if value is not None] == pytest.approx(
        [100.0] * (len(result.columns) - 2 * (kind == "lvis"))  # no frequent category
    )
    assert (split, found) == before
    json.dumps([result.columns, result.details], allow_nan=False)
    numpys = [
        {**item, "bbox": np.array(item["bbox"], dtype=np.float32), "score": np.float32(item["score"])} for item in found
    ]
    assert evaluate(split, numpys) == result


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_keep_the_order_of_images_and_boxes(kind):
    """Of two detections with one score the one in the image of the lower id counts first, then the box further left.

    A false detection before the hit halves the precision, one behind it does not.
    """
    for image, wrong, average in ((20, RIGHT, 100.0), (10, RIGHT, 100.0)):
        split = split_of(kind, [(10, 1, LEFT)])
        found = [detection(10, 1, LEFT, 0.5), detection(image, 1, wrong, 0.5)]
        assert evaluate(split, found, masks=False).columns["APbb"] == pytest.approx(average)
        assert evaluate(split, found[::-1], masks=False).columns["APbb"] == pytest.approx(average)
    split = split_of(kind, [(20, 1, LEFT)])
    split.images[0]["neg_category_ids"] = [1]
    found = [detection(20, 1, LEFT, 0.5), detection(10, 1, LEFT, 0.5)]
    assert evaluate(split, found, masks=False).columns["APbb"] == pytest.approx(50.0)
    assert evaluate(split, found[::-1], masks=False).columns["APbb"] == pytest.approx(50.0)


def test_masks_tell_equal_boxes_apart():
    """Two detections of one score and one box: the same number whichever comes first."""
    split = split_of("coco", [(10, 1, LEFT)])
    hit = detection(10, 1, LEFT, 0.5)
    miss = {**hit, "segmentation": detection(10, 1, RIGHT, 0.5)["segmentation"]}
    assert evaluate(split, [hit, miss]) == evaluate(split, [miss, hit])

"""COCO's numbers: by hand, and pycocotools' on real annotations and on odd cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soco_core.datasets.open_set import open_dataset
from soco_core.evaluation import evaluate
from tests.evaluation.references import (
    COCO_NUMBERS,
    assert_equal,
    by_pycocotools,
    canonical,
    detection,
    make_split,
    noised,
    percent,
)

LEFT, RIGHT, FAR = [0.0, 0, 20, 20], [30.0, 30, 20, 20], [80.0, 80, 20, 20]


@pytest.fixture(scope="module")
def real(shared_data):
    return open_dataset(str(shared_data / "coco-mini"), "coco")


def test_a_curve_by_hand():
    """Two objects; by falling score a hit, a miss and a hit: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.

    The highest precision from a recall on is 1 at 0, .01 .. .50 (51 points) and 2/3 at .51 .. 1 (50 points):
    AP = (51 + 50 * 2/3) / 101. All boxes are exact, so that it is the same at each IoU. The best detection alone finds
    one of two. 20 x 20 pixels are small.
    """
    split = make_split([(10, 1, LEFT), (10, 1, RIGHT)])
    found = [detection(10, 1, *item) for item in ((LEFT, 0.9), (FAR, 0.8), (RIGHT, 0.7))]
    result = evaluate(split, found)
    average = pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert result.columns == dict.fromkeys(("APbb", "APbb50", "APbb75", "APmk", "APmk50", "APmk75"), average)
    wanted = {
        **{"AP": average, "AP50": average, "AP75": average, "APsmall": average, "APmedium": None, "APlarge": None},
        **{"AR1": 50.0, "AR10": 100.0, "AR100": 100.0, "ARsmall": 100.0, "ARmedium": None, "ARlarge": None},
    }
    assert tuple(wanted) == COCO_NUMBERS
    assert result.details == {
        "boxes": wanted,
        "masks": wanted,
        "categories": {kind: {"class1": average, "class2": None, "class3": None} for kind in ("boxes", "masks")},
    }


def test_an_iou_by_hand():
    """15 of 20 columns are covered: IoU .75, which .50, .55 .. .75 accept (six of ten), and the mask's as well."""
    split = make_split([(10, 1, LEFT)])
    result = evaluate(split, [detection(10, 1, [0.0, 0, 15, 20], 0.9)])
    assert result.columns == {
        **{"APbb": pytest.approx(60.0), "APbb50": pytest.approx(100.0), "APbb75": pytest.approx(100.0)},
        **{"APmk": pytest.approx(60.0), "APmk50": pytest.approx(100.0), "APmk75": pytest.approx(100.0)},
    }


def test_a_mask_is_sorted_by_its_own_area():
    """An unmatched mask of 20 x 20 in a box of 50 x 50 pixels is small: no false detection among medium ones."""
    split = make_split([(10, 1, [60.0, 40, 50, 50])])
    hit = detection(10, 1, [60.0, 40, 50, 50], 0.5)
    miss = {**detection(10, 1, LEFT, 0.9), "bbox": [0.0, 0, 50, 50]}
    details = evaluate(split, [hit, miss]).details
    assert details["boxes"]["APmedium"] == pytest.approx(50.0)
    assert details["masks"]["APmedium"] == pytest.approx(100.0)


@pytest.mark.parametrize("part", ["train", "val", "subset"])
def test_real_annotations_as_in_pycocotools(real, part):
    if part == "subset":
        split = real.train.part({image["id"] for image in real.train.images[::2]}, "every second")
    else:
        split = getattr(real, part)
    found = noised(split, seed=7)
    result = evaluate(split, found)
    assert split.annotations == (real.val if part == "val" else real.train).annotations or part == "subset"
    for name, kind in (("boxes", "bbox"), ("masks", "segm")):
        reference = by_pycocotools(split, found, kind)
        assert_equal([result.details[name][key] for key in COCO_NUMBERS], percent(reference.stats))
        precision = reference.eval["precision"][:, :, :, 0, -1]
        wanted = [-1 if column.max() < 0 else column.mean() for column in np.moveaxis(precision, 2, 0)]
        assert_equal(list(result.details["categories"][name].values()), percent(wanted))
    assert list(result.columns.values()) == [
        result.details[name][key] for name in ("boxes", "masks") for key in COCO_NUMBERS[:3]
    ]
    assert 5 < result.columns["APmk"] < result.columns["APmk50"] < 95
    # None of the twelve is there by accident.
    assert len({round(value, 6) for value in result.details["boxes"].values()}) == 12


def test_crowds_as_in_pycocotools(real):
    """Every third object is a crowd, by whose RLE or polygons detections are ignored."""
    annotations = [{**item, "iscrowd": int(number % 3 == 0)} for number, item in enumerate(real.val.annotations)]
    split = replace(real.val, annotations=annotations)
    found = noised(split, seed=3)
    result = evaluate(split, found)
    for name, kind in (("boxes", "bbox"), ("masks", "segm")):
        wanted = percent(by_pycocotools(split, found, kind).stats)
        assert_equal([result.details[name][key] for key in COCO_NUMBERS], wanted)
    assert result.details["boxes"]["AP"] != evaluate(real.val, found).details["boxes"]["AP"]


def test_an_object_of_id_0_is_found():
    """The libraries take 0 for "no match"."""
    split = make_split([(10, 1, LEFT)])
    split.annotations[0]["id"] = 0
    assert evaluate(split, [detection(10, 1, LEFT, 0.9)]).columns["APbb"] == pytest.approx(100.0)


def test_what_is_no_polygon_is_left_out_of_a_mask():
    """As in training; the library would draw the first three of three and a half corners."""
    split = make_split([(10, 1, LEFT), (20, 1, LEFT)])
    split.annotations[0]["segmentation"] = [[0.0, 0, 90, 0, 90, 90, 0], split.annotations[0]["segmentation"][0]]
    split.annotations[1]["segmentation"] = []
    found = [detection(10, 1, LEFT, 0.9), detection(20, 1, LEFT, 0.8)]
    result = evaluate(split, found)
    assert result.columns["APbb"] == pytest.approx(100.0)
    assert result.columns["APmk"] == pytest.approx(100 * 51 / 101)  # one of two is found: 51 of 101 recalls


@pytest.mark.parametrize("count", [99, 100, 101, 305])
def test_a_hundred_detections_of_a_category_count(count):
    """The only hit has the lowest score of `count` detections."""
    split = make_split([(10, 1, LEFT)])
    found = [detection(10, 1, FAR, 0.9)] * (count - 1) + [detection(10, 1, LEFT, 0.1)]
    result = evaluate(split, found)
    reference = by_pycocotools(split, canonical(found), "bbox")
    assert_equal([result.details["boxes"][key] for key in COCO_NUMBERS], percent(reference.stats))
    assert result.details["boxes"]["AR100"] == (100.0 if count <= 100 else 0.0)
    # A hundred of each category, not of all together.
    others = [{**item, "category_id": 2} for item in found]
    assert evaluate(split, [*others, found[-1]]).details["boxes"]["AR100"] == 100.0


BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.sampled_from([0, 8, 10, 30, 40])] * 2).map(
    lambda box: [float(side) for side in box]
)
OBJECTS = st.lists(st.tuples(st.sampled_from([10, 20]), st.integers(1, 3), BOXES), max_size=8)
DETECTIONS = st.lists(
    st.tuples(st.sampled_from([10, 20]), st.integers(1, 3), BOXES, st.sampled_from([0.2, 0.2000001, 0.5, 1.0])),
    min_size=1,
    max_size=16,
)


@settings(deadline=None, max_examples=150)
@given(OBJECTS, DETECTIONS, st.data())
def test_odd_cases_as_in_pycocotools(objects, items, data):
    split = make_split(objects)
    for item in split.annotations:
        item["iscrowd"] = data.draw(st.integers(0, 1))
    # Detections near an object, so that there is something to match.
    found = [
        detection(image, category, data.draw(st.sampled_from([box, *(item[2] for item in objects)])), score)
        for image, category, box, score in items
    ]
    result = evaluate(split, found, masks=False)
    assert evaluate(split, data.draw(st.permutations(found)), masks=False) == result
    reference = by_pycocotools(split, canonical(found), "bbox")
    assert_equal([result.details["boxes"][key] for key in COCO_NUMBERS], percent(reference.stats))


@settings(deadline=None, max_examples=60)
@given(OBJECTS, DETECTIONS, st.data())
def test_odd_masks_as_in_pycocotools(objects, items, data):
    split = make_split([(image, category, [*box[:2], box[2] + 1, box[3] + 1]) for image, category, box in objects])
    near = [item["bbox"] for item in split.annotations]
    found = [
        detection(image, category, data.draw(st.sampled_from([box, *near])), score)
        for image, category, box, score in items
    ]
    result = evaluate(split, found)
    assert evaluate(split, data.draw(st.permutations(found))) == result
    reference = by_pycocotools(split, canonical(found), "segm")
    assert_equal([result.details["masks"][key] for key in COCO_NUMBERS], percent(reference.stats))

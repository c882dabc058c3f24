"""VOC07's numbers: by hand, as plain loops have them, and detectron2's on real annotations where it is installed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soco_core.datasets.open_set import open_dataset
from soco_core.evaluation import evaluate
from tests.evaluation.references import canonical, detection, make_split, noised

THRESHOLDS = [percent / 100 for percent in range(50, 100, 5)]
A, B, C, D, E = ([step, step, 20.0, 20.0] for step in (0.0, 20.0, 40.0, 60.0, 80.0))


@pytest.fixture(scope="module")
def real(shared_data):
    return open_dataset(str(shared_data / "voc07-mini"), "voc")


def voc(split, difficult=()):
    for item in split.annotations:
        item["difficult"] = int(item["bbox"] in difficult)
        del item["segmentation"]
    return replace(split, format="voc")


def columns(split, found):
    result = evaluate(split, found)
    assert list(result.columns) == ["APbb", "APbb50", "APbb75"]
    return list(result.columns.values())


def test_eleven_points_by_hand():
    """Four objects to find, A, C, D and E, and a difficult one, B. By falling score:

    .9 A        a hit         precision 1    recall 1/4
    .8 A again  false         precision 1/2  recall 1/4
    .7 B        ignored
    .6 C        a hit         precision 2/3  recall 1/2
    .5 nothing  false         precision 1/2  recall 1/2
    .4 D        a hit         precision 3/5  recall 3/4

    The highest precision from a recall on: 1 at 0, .1, .2; 2/3 at .3, .4, .5; 3/5 at .6, .7; 0 at .8, .9, 1.
    AP = (3 * 1 + 3 * 2/3 + 2 * 3/5) / 11 = 6.2 / 11, at each IoU, for the boxes are exact.
    """
    split = voc(make_split([(10, 1, A), (10, 1, B), (20, 1, C), (20, 1, D), (10, 1, E)]), difficult=[B])
    found = [
        detection(10, 1, A, 0.9),
        detection(10, 1, A, 0.8),
        detection(10, 1, B, 0.7),
        detection(20, 1, C, 0.6),
        detection(20, 1, A, 0.5),
        detection(20, 1, D, 0.4),
    ]
    assert columns(split, found) == pytest.approx([100 * 6.2 / 11] * 3)
    wanted = {"class1": pytest.approx(100 * 6.2 / 11), "class2": None, "class3": None}
    assert evaluate(split, found).details["categories"] == {"boxes": wanted}
    # A second class that is found at once: the mean of both.
    both = replace(split, annotations=[*split.annotations, {**split.annotations[0], "id": 9, "category_id": 2}])
    assert columns(both, [*found, detection(10, 2, A, 0.1)]) == pytest.approx([(100 * 6.2 / 11 + 100) / 2] * 3)


def test_thresholds_by_hand():
    """An IoU is above its threshold, not at it: 10 of 20 columns are no hit at .5, and 10.1 are. 16 of 20 are one at
    .5 .. .75, at .8 not: six of ten.
    """
    split = voc(make_split([(10, 1, A)]))
    assert columns(split, [detection(10, 1, [0.0, 0, 10, 20], 0.5)]) == [0.0, 0.0, 0.0]
    assert columns(split, [detection(10, 1, [0.0, 0, 10.1, 20], 0.5)]) == pytest.approx([10.0, 100.0, 0.0])
    assert columns(split, [detection(10, 1, [0.0, 0, 16, 20], 0.5)]) == pytest.approx([60.0, 100.0, 100.0])


def test_decimals_by_hand():
    """10.04 columns are written as 10.0 and no hit; 10.06 as 10.1 and a hit. Scores equal at three decimals are equal:
    the image of the lower id comes first.
    """
    split = voc(make_split([(10, 1, A)]))
    assert columns(split, [detection(10, 1, [0.0, 0, 10.04, 20], 0.5)])[1] == 0.0
    assert columns(split, [detection(10, 1, [0.0, 0, 10.06, 20], 0.5)])[1] == pytest.approx(100.0)
    for wrong, average in ((0.9004, 100.0), (0.9006, 50.0)):
        found = [detection(10, 1, A, 0.9), detection(20, 1, A, wrong)]
        assert columns(split, found) == pytest.approx([average] * 3)
    # 0.0005 lies above the middle between 0.000 and 0.001, which scaling by 1000 hides.
    found = [detection(10, 1, A, 0.0004), detection(20, 1, A, 0.0005)]
    assert columns(split, found) == pytest.approx([50.0] * 3)


def test_three_of_ten_do_not_reach_a_recall_of_0_3():
    """VOC counts its recalls in steps of a float .1: precision 1 at 0, .1, .2, 0 from .30000000000000004 on."""
    boxes = [[10.0 * step, 0.0, 9.0, 9.0] for step in range(10)]
    split = voc(make_split([(10, 1, box) for box in boxes]))
    assert columns(split, [detection(10, 1, box, 0.5) for box in boxes[:3]]) == pytest.approx([100 * 3 / 11] * 3)


def test_a_class_of_difficult_objects_does_not_count():
    split = voc(make_split([(10, 1, A), (10, 2, B)]), difficult=[B])
    assert columns(split, [detection(10, 1, A, 0.5), detection(10, 2, C, 0.5)]) == pytest.approx([100.0] * 3)


def plain(split, predictions, threshold):
    """VOC's development kit as loops: AP of each class with objects, in percent."""
    values = []
    for category in split.categories:
        objects = [item for item in split.annotations if item["category_id"] == category["id"]]
        number = sum(not item["difficult"] for item in objects)
        if not number:
            continue
        mine = [item for item in canonical(predictions) if item["category_id"] == category["id"]]
        seen, hits, misses, curve = set(), 0, 0, []
        for item in sorted(mine, key=lambda item: -float(f"{item['score']:.3f}")):
            best, place = -1.0, None
            for other in (other for other in objects if other["image_id"] == item["image_id"]):
                overlap = plain_overlap(item["bbox"], other["bbox"])
                if overlap > best:
                    best, place = overlap, other
            if best > threshold and place["difficult"]:
                curve.append((hits, misses))
                continue
            if best > threshold and place["id"] not in seen:
                seen.add(place["id"])
                hits += 1
            else:
                misses += 1
            curve.append((hits, misses))
        total = 0.0
        for step in np.arange(0, 1.1, 0.1):
            total += max((h / max(h + m, 1) for h, m in curve if h / number >= step), default=0.0)
        values.append(100 * total / 11)
    return values


def plain_overlap(found, truth):
    x, y, width, height = found
    left, top, right, bottom = (float(f"{side:.1f}") for side in (x + 1, y + 1, x + width, y + height))
    x, y, width, height = truth
    columns = max(min(right, x + width) - max(left, x + 1) + 1, 0)
    rows = max(min(bottom, y + height) - max(top, y + 1) + 1, 0)
    common = columns * rows
    return common / ((right - left + 1) * (bottom - top + 1) + width * height - common)


def assert_plain(split, found):
    result = evaluate(split, found)
    table = [plain(split, found, threshold) for threshold in THRESHOLDS]
    wanted = [np.mean(table), np.mean(table[0]), np.mean(table[5])] if table[0] else [None] * 3
    assert list(result.columns.values()) == pytest.approx(wanted, abs=1e-9)
    return result


@pytest.mark.parametrize("part", ["train", "val"])
def test_real_annotations_as_in_plain_loops(real, part):
    split = getattr(real, part)
    found = noised(split, seed=5)
    for item in found[::3]:
        item["score"] = round(item["score"], 1)  # many equal ones
    result = assert_plain(split, found)
    assert evaluate(split, found[::-1]) == result
    assert 5 < result.columns["APbb"] < result.columns["APbb50"] < 95
    assert 5 < result.columns["APbb75"] < result.columns["APbb50"]


SIDES = st.one_of(st.sampled_from([0.0, 8.0, 10.0, 10.05, 10.25, 20.0]), st.floats(0, 40, width=32))
BOXES = st.lists(SIDES, min_size=4, max_size=4)
PLACES = st.tuples(st.sampled_from([10, 20]), st.integers(1, 3))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_odd_cases_as_in_plain_loops(data):
    objects = [
        (image, category, [float(round(side)) for side in box[:2]] + [float(round(side) + 1) for side in box[2:]])
        for (image, category), box in data.draw(st.lists(st.tuples(PLACES, BOXES), max_size=8))
    ]
    split = voc(make_split(objects))
    for item in split.annotations:
        item["difficult"] = data.draw(st.sampled_from([0, 0, 1]))
    near = st.sampled_from([box for _, _, box in objects]) if objects else BOXES
    scores = st.one_of(st.sampled_from([0.0005, 0.1235, 0.5, 1.0]), st.floats(0, 1))
    found = [
        detection(image, category, box, score)
        for (image, category), box, score in data.draw(
            st.lists(st.tuples(PLACES, st.one_of(BOXES, near), scores), max_size=16)
        )
    ]
    result = assert_plain(split, found)
    assert evaluate(split, data.draw(st.permutations(found))) == result


@pytest.mark.detectron2
@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("equal_scores", [False, True])
def test_real_annotations_as_in_detectron2(real, monkeypatch, part, equal_scores):
    pytest.importorskip("detectron2")
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator, pascal_voc_evaluation
    from detectron2.structures import Boxes, Instances

    split = getattr(real, part)
    found = noised(split, seed=13, distinct_scores=not equal_scores)
    if equal_scores:
        # detectron2 leaves the order of equal scores to numpy's quicksort; ours is stable.
        for item in found:
            item["score"] = round(item["score"], 1)
        found = canonical(found)
        stable = partial(np.argsort, kind="stable")
        monkeypatch.setattr(pascal_voc_evaluation, "np", SimpleNamespace(**{**vars(np), "argsort": stable}))
    name = f"soco_voc_mini_{part}"
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        dirname=split.folder,
        split={"train": "trainval", "val": "test"}[part],
        year=2007,
        thing_classes=[category["name"] for category in split.categories],
    )
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for image in split.images:
        mine = [item for item in found if item["image_id"] == image["id"]]
        instances = Instances((image["height"], image["width"]))
        boxes = np.array([item["bbox"] for item in mine], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        # Eighths of a pixel, which float32 holds exactly.
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.scores = torch.tensor([item["score"] for item in mine], dtype=torch.float64)
        instances.pred_classes = torch.tensor([split.class_of[item["category_id"]] for item in mine])
        evaluator.process([{"image_id": Path(image["file_name"]).stem}], [{"instances": instances}])
    wanted = evaluator.evaluate()["bbox"]
    ours = evaluate(split, found).columns
    assert list(ours.values()) == pytest.approx([wanted[key] for key in ("AP", "AP50", "AP75")], abs=1e-6)
    assert 5 < ours["APbb"] < 95

"""LVIS's numbers: by hand, and lvis's on real annotations and on odd cases.

The package is installed without what it requires (`pip install --no-deps lvis`), which is a second OpenCV.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soco_core.datasets.open_set import open_dataset
from soco_core.errors import InputError
from soco_core.evaluation import evaluate
from tests.evaluation.references import assert_equal, canonical, detection, make_split, noised, percent

LEFT, RIGHT, FAR = [0.0, 0, 20, 20], [30.0, 30, 20, 20], [80.0, 80, 20, 20]
NUMBERS = {
    **{"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APsmall": "APs", "APmedium": "APm", "APlarge": "APl"},
    **{"APr": "APr", "APc": "APc", "APf": "APf", "AR300": "AR@300"},
    **{"ARsmall": "ARs@300", "ARmedium": "ARm@300", "ARlarge": "ARl@300"},
}


@pytest.fixture(scope="module")
def real(shared_data):
    """The development images, with frequencies so that each group has objects."""
    dataset = open_dataset(str(shared_data / "lvis-mini"), "lvis")
    categories = [{**item, "frequency": "rcf"[item["id"] % 3]} for item in dataset.train.categories]
    return replace(
        dataset,
        train=replace(dataset.train, categories=categories),
        val=replace(dataset.val, categories=categories),
    )


@pytest.fixture
def by_lvis(tmp_path, monkeypatch):
    # lvis 0.5.3 was written for a numpy that has it.
    monkeypatch.setattr(np, "float", float, raising=False)
    lvis = pytest.importorskip("lvis")

    def numbers(split, predictions, kind):
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(split.as_coco()))
        truth = lvis.LVIS(str(path))
        items = [{key: value for key, value in item.items() if kind == "bbox" or key != "bbox"} for item in predictions]
        evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, copy.deepcopy(items)), kind)
        evaluation.run()
        return percent([evaluation.get_results()[name] for name in NUMBERS.values()])

    return numbers


def test_federated_annotations_by_hand():
    """Three categories, rare, common and frequent, each with one object and one detection of it of score .5.

    Rare: image 20 is known not to have it, so that a detection of score .9 there is false: precision 1/2 at every
    recall. Common: it is not all marked in image 20, so that the detection of score .9 there is ignored. Frequent:
    nothing is known of it in image 20, so that the detection of score .9 there is dropped.
    """
    objects = [(10, 1, LEFT), (20, 2, LEFT), (10, 3, RIGHT)]
    split = make_split(objects, kind="lvis", neg={20: [1]}, not_exhaustive={20: [2]})
    found = [detection(image, category, box, 0.5) for image, category, box in objects]
    found += [detection(20, category, FAR, 0.9) for category in (1, 2, 3)]
    result = evaluate(split, found)
    exact = {"": 250 / 3, "50": 250 / 3, "75": 250 / 3, "r": 50.0, "c": 100.0, "f": 100.0}
    assert result.columns == {
        f"{prefix}{suffix}": pytest.approx(value) for prefix in ("APbb", "APmk") for suffix, value in exact.items()
    }
    assert tuple(result.details["boxes"]) == tuple(NUMBERS)
    assert result.details["boxes"]["AR300"] == 100.0
    assert result.details["categories"]["boxes"] == {"class1": pytest.approx(50.0), "class2": 100.0, "class3": 100.0}
    # COCO, which takes every image to be marked in full, has 1/2 for all three.
    everywhere = evaluate(replace(split, format="coco"), found)
    assert everywhere.columns["APbb"] == pytest.approx(50.0)


@pytest.mark.parametrize(("others", "found"), [(299, 100.0), (300, 0.0)])
def test_the_best_300_of_an_image_count(others, found):
    """The only hit has the lowest score of its image, whose other detections are of another category."""
    split = make_split([(10, 1, LEFT)], kind="lvis", neg={10: [2]})
    predictions = [detection(10, 1, LEFT, 0.1)] + [detection(10, 2, FAR, 0.9)] * others
    predictions += [detection(20, 2, FAR, 0.9)] * 300  # another image's do not take its place
    assert evaluate(split, predictions).columns["APbb"] == found


def test_frequencies_come_from_training_images_where_they_are_not_written():
    split = make_split([(10, n, LEFT) for n in range(1, 6)], categories=5, kind="lvis")
    for category, count in zip(split.categories, (1, 10, 11, 100, 101), strict=True):
        category.pop("frequency")
        category["image_count"] = count
    found = [detection(10, number, LEFT, 0.5) for number in (1, 3, 4)]  # one of two rare, both common, no frequent
    columns = evaluate(split, found).columns
    assert [columns[f"APbb{name}"] for name in "rcf"] == [50.0, 100.0, 0.0]
    del split.categories[1]["image_count"]
    with pytest.raises(InputError, match=r"truth.json: category class2 has neither frequency .* nor image_count"):
        evaluate(split, found)


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize(("name", "kind"), [("boxes", "bbox"), ("masks", "segm")])
def test_real_annotations_as_in_lvis(real, by_lvis, part, name, kind):
    split = getattr(real, part)
    found = noised(split, seed=11)
    # Detections of what is said to be absent, and of what is not all marked.
    generator = np.random.default_rng(0)
    for image in split.images:
        box = [0.0, 0.0, image["width"] / 2, image["height"] / 2]
        listed = image["neg_category_ids"][:4] + image["not_exhaustive_category_ids"]
        size = (image["width"], image["height"])
        found += [detection(image["id"], number, box, float(generator.random()), size) for number in listed]
    # One image has more than 300.
    crowded = split.images[0]
    mine = [item for item in found if item["image_id"] == crowded["id"]]
    assert mine
    for number in range(400):
        item = copy.deepcopy(mine[number % len(mine)])
        item["score"] = float(generator.random())
        found.append(item)
    result = evaluate(split, found)
    assert_equal(list(result.details[name].values()), by_lvis(split, found, kind))
    assert all(result.details[name][key] for key in ("APr", "APc", "APf"))
    cut = canonical([item for item in found if item["image_id"] == crowded["id"]])[:300]
    rest = [item for item in found if item["image_id"] != crowded["id"]]
    assert evaluate(split, cut + rest) == result


BOXES = st.sampled_from([LEFT, RIGHT, FAR, [5.0, 0, 20, 20], [0.0, 0, 60, 60], [30.0, 35, 20, 20]])
IDS = st.lists(st.integers(1, 3), unique=True)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_odd_cases_as_in_lvis(by_lvis, data):
    place = st.tuples(st.sampled_from([10, 20]), st.integers(1, 3), BOXES)
    lists = {name: {image: data.draw(IDS) for image in (10, 20)} for name in ("neg", "not_exhaustive")}
    split = make_split(data.draw(st.lists(place, max_size=8)), kind="lvis", **lists)
    scores = st.sampled_from([0.2, 0.5, 1.0])
    found = [detection(*item, data.draw(scores)) for item in data.draw(st.lists(place, min_size=1, max_size=16))]
    result = evaluate(split, found)
    assert evaluate(split, data.draw(st.permutations(found))) == result
    for name, kind in (("boxes", "bbox"), ("masks", "segm")):
        assert_equal(list(result.details[name].values()), by_lvis(split, canonical(found), kind))

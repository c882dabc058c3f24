"""Parts of COCO's training images: how many, which, and lists of them."""

from __future__ import annotations

import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soco_core.config import DatasetsConfig
from soco_core.datasets.check import check
from soco_core.datasets.open_set import open_dataset, open_named
from soco_core.datasets.published import NAMED, TRAIN2017, named
from soco_core.datasets.subsets import choose_ids, read_ids, take_part, write_ids
from soco_core.errors import InputError


@pytest.mark.parametrize(("name", "count"), [("mini-coco-5", 5914), ("mini-coco-10", 11829), ("coco-50pct", 59144)])
def test_the_shares_of_train2017_have_the_published_size(name, count):
    # 0.05, 0.1 and 0.5 of 118,287, rounded by hand.
    assert named(name).splits["train"].images == count
    assert len(choose_ids(range(TRAIN2017), named(name).share)) == count


def test_the_choice_depends_on_the_ids_alone():
    ids = [7 * number + 9 for number in range(2000)]
    chosen = choose_ids(ids, "5%")
    assert len(chosen) == 100
    assert chosen == sorted(chosen)
    shuffled = random.Random(1).sample(ids, len(ids))
    assert choose_ids(shuffled, "5%") == chosen
    assert set(chosen) < set(choose_ids(ids, "10%"))
    by_hand = sorted(ids, key=lambda number: hashlib.sha256(f"soco image subset\n{number}".encode()).digest())[:100]
    assert chosen == sorted(by_hand)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(min_value=0, max_value=10**12), min_size=1, max_size=80), st.integers(1, 100))
def test_a_share_is_a_part_of_its_size(ids, percentage):
    chosen = choose_ids(ids, f"{percentage}%")
    assert set(chosen) <= ids
    assert len(chosen) == max(1, (len(ids) * percentage + 50) // 100)


def test_a_part_keeps_what_belongs_to_its_images(json_set):
    split = open_dataset(json_set("coco").write(), "coco").train
    half = take_part(split, "50%")
    (image,) = half.images
    assert half.annotations == split.annotations_of[image["id"]]
    assert len(half.sizes) == 1
    assert half.subset == "50%"
    assert half.categories == split.categories
    assert half.fingerprint != split.fingerprint


def test_a_list_that_was_written_is_read_again(json_set, tmp_path, s3):
    split = open_dataset(json_set("coco").write(), "coco").train
    half = take_part(split, "50%")
    for place in (str(tmp_path / "ids.txt"), f"{s3}/ids.txt"):
        write_ids(half, place)
        assert read_ids(place) == [half.images[0]["id"]]
        assert take_part(split, "5%", place).images == half.images
    assert (tmp_path / "ids.txt").read_text().startswith("# 1 images, 50% of ")


@pytest.mark.parametrize(
    "text",
    [
        "9\n25\n\n# a comment\n30\n",
        "000000000009.jpg\r\n000000000025.jpg\r\n000000000030.jpg\r\n",
        "train2017/000000000030.jpg\nCOCO_train2014_000000000025.jpg\n9",
        "[30, 9, 25]",
        '["000000000009.jpg", 25, "30"]',
        json.dumps({"images": [{"id": 9}, {"id": 25}, {"id": 30}], "annotations": []}),
    ],
)
def test_published_lists_in_their_forms(tmp_path, text):
    (tmp_path / "list").write_text(text)
    assert read_ids(str(tmp_path / "list")) == [9, 25, 30]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no image"),
        ("[]", "lists no image"),
        ("9\ncat.jpg\n", "line 2: 'cat.jpg' is neither an id nor"),
        ("[9, null]", "entry 1: None is neither"),
        ("[9, 9]", "entry 1: id 9 is listed twice"),
        ("[9, ", "not readable as JSON"),
        ('{"ids": [9]}', "has no list 'images'"),
        ("9\n99\n", "99 is not an image of .*instances_train2017.json"),
    ],
)
def test_a_wrong_list_is_one_line(json_set, tmp_path, text, words):
    coco = json_set("coco")
    coco.train["images"][0]["id"] = coco.train["annotations"][0]["image_id"] = 9
    split = open_dataset(coco.write(), "coco").train
    (tmp_path / "list").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        take_part(split, "5%", str(tmp_path / "list"))
    assert "\n" not in str(caught.value)


def test_a_name_takes_its_share_or_the_recipe_s_list(json_set, tmp_path):
    coco = json_set("coco")
    place = coco.write()
    assert len(open_named("coco-50pct", DatasetsConfig(coco=place)).train.images) == 1
    assert len(open_named("coco-50pct", DatasetsConfig(coco=place)).val.images) == 2
    (tmp_path / "list").write_text("2\n")
    listed = open_named("mini-coco-5", DatasetsConfig(coco=place, image_ids=str(tmp_path / "list")))
    assert [image["id"] for image in listed.train.images] == [2]
    with pytest.raises(InputError, match="imagenet: has no boxes"):
        open_named("imagenet", DatasetsConfig())
    with pytest.raises(InputError, match=r"nothing-such: neither a folder nor the name.*voc0712"):
        open_named("nothing-such", DatasetsConfig())


def test_a_list_that_nobody_would_read_is_refused(json_set, voc_set, tmp_path):
    place = json_set("coco").write()
    (tmp_path / "list").write_text("2\n")
    config = DatasetsConfig(coco=place, voc=str(voc_set.root), image_ids=str(tmp_path / "list"))
    for name in (place, str(voc_set.root), "coco2017", "voc0712"):
        for open_it in (open_named, check):
            with pytest.raises(InputError, match=r"datasets\.image_ids: only mini-coco-5.* take a list; remove it"):
                open_it(name, config)
    assert check("coco-50pct", config).splits[0].images == 1


def test_the_published_numbers():
    # From the data sets' own pages; the sum is the one that the paper's Table 9 is about.
    assert sum(count.images for count in named("coco-train+unlabeled").splits.values()) == 241_690
    assert named("imagenet-subset").splits["train"].images == 241_690
    assert named("voc0712").splits["trainval"].images == 5_011 + 11_540
    assert named("voc0712").splits["trainval"].annotations == 15_662 + 31_561
    assert named("lvis-v1").categories == 1203
    assert len({item.name for item in NAMED}) == 9

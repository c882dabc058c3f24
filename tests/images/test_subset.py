"""Parts of an image set: the same images everywhere, and one line for what cannot be."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from soco_core import storage
from soco_core.config import ImagesConfig
from soco_core.errors import InputError, RecipeError
from soco_core.images import open_image_set
from soco_core.images.subset import COCO_IMAGES, take_subset
from soco_core.recipes import load_recipe, parse_recipe

IDS = tuple(f"n{k // 10:03d}/{k:04d}.jpg" for k in range(1000))


def take(subset: str, ids: tuple[str, ...] = IDS) -> tuple[str, ...]:
    return take_subset(ids, subset, "root")


def test_the_first_by_their_salted_hash_are_taken() -> None:
    def rank(image_id: str) -> str:
        return hashlib.sha256(b"soco image subset\n" + image_id.encode()).hexdigest()

    assert take("3") == tuple(sorted(sorted(IDS, key=rank)[:3]))
    # The choice is public: it must not change from one version to the next.
    assert take("3") == ("n016/0163.jpg", "n054/0548.jpg", "n068/0687.jpg")


@pytest.mark.parametrize(
    ("subset", "count"),
    [("10%", 100), ("100%", 1000), ("0.25%", 3), ("0.24%", 2), (".1%", 1), ("0.001%", 1), ("33.33%", 333), ("7", 7)],
)
def test_how_many_are_taken(subset: str, count: int) -> None:
    chosen = take(subset)
    assert len(chosen) == count
    assert list(chosen) == sorted(set(chosen) & set(IDS))


def test_halves_are_rounded_up_exactly() -> None:
    # 45 x 0.7 = 31.5 in decimals; in binary floating point a little less.
    assert len(take("70%", IDS[:45])) == 32


def test_a_part_is_contained_in_a_larger_one_and_order_plays_no_role() -> None:
    assert set(take("10%")) < set(take("20%")) < set(take("500"))
    shuffled = list(IDS)
    random.Random(0).shuffle(shuffled)
    assert take("10%", tuple(shuffled)) == take("10%")
    # An image that joins the set displaces at most one other.
    assert len(set(take("100", (*IDS, "z.jpg"))) ^ set(take("100"))) <= 2


def test_as_many_as_coco_has() -> None:
    assert COCO_IMAGES == 118_287 + 123_403  # train2017 and unlabeled2017
    ids = tuple(f"{k:06d}.jpg" for k in range(COCO_IMAGES + 10))
    assert len(take("coco-size", ids)) == 241_690
    assert take("coco-size", ids[10:]) == ids[10:]
    with pytest.raises(InputError, match=r"^images.subset coco-size: 241690 images, but root has only 241689;"):
        take("coco-size", ids[11:])


def test_a_list(tmp_path: Path, s3: str) -> None:
    text = f"\ufeff# mine\r\n{IDS[5]}\r\n\n  {IDS[2]}  \n{IDS[5]}\n#{IDS[9]}\n"
    for place in (str(tmp_path / "list.txt"), f"{s3}/lists/list.txt"):
        storage.write_text(place, text)
        assert take(place) == (IDS[2], IDS[5])
        storage.write_text(place, text + "n9/b.jpg\nn9/a.jpg\n")
        with pytest.raises(InputError, match=r"n9/a\.jpg is not an image of root \(2 of 4 listed ids are not\)"):
            take(place)
        storage.write_text(place, "\n# nothing\n")
        with pytest.raises(InputError, match="lists no image"):
            take(place)


@pytest.mark.parametrize(
    ("subset", "words"),
    [
        ("0", "at least 1"),
        ("0%", "more than 0%"),
        ("100.1%", "at most 100%"),
        ("1001", "only 1000"),
        ("10 %", "a percentage such as 10%"),
        ("-5", "a number of images"),
        ("coco-sise", "coco-size"),
    ],
)
def test_what_cannot_be_is_one_line(subset: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        take(subset)
    assert subset in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_in_a_recipe_is_a_number_of_images() -> None:
    assert parse_recipe("images: {subset: 5000}").images.subset == "5000"
    assert load_recipe("soco-fpn-100ep", ["images.subset=5000"]).images.subset == "5000"
    with pytest.raises(RecipeError, match=r"images\.subset"):
        parse_recipe("images: {subset: 0.5}")
    with pytest.raises(RecipeError, match=r"images\.subset: give coco-size, .* or a file of ids, not 5\.5$"):
        load_recipe("demo", ["images.subset=5.5"])


def test_a_set_is_opened_with_its_subset(tmp_path: Path) -> None:
    for k in range(10):
        (tmp_path / f"{k}.jpg").touch()
    whole = open_image_set(str(tmp_path))
    part = open_image_set(str(tmp_path), ImagesConfig(subset="30%"))
    assert part.ids == take("30%", whole.ids)
    assert part.subset == "30%"
    assert part.fingerprint("sizes") != whole.fingerprint("sizes")

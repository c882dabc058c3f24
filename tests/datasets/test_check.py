"""The check as a whole: what it finds, how bad that is, and its exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle_library
from typer.testing import CliRunner, Result

from soco_core.cli import app
from soco_core.config import DatasetsConfig
from soco_core.datasets.check import check
from soco_core.datasets.findings import Rule
from soco_core.datasets.published import Counts, Named
from soco_core.datasets.rules import (
    BAD_POLYGON,
    DEGENERATE,
    NEGATIVE_SIDE,
    NO_BOX,
    OUTSIDE,
    POLYGON_OUTSIDE,
    RLE_COUNTS,
    RLE_SIZE,
    box_problems,
    is_safe_name,
    mask_problems,
)
from tests.datasets.conftest import HEIGHT, WIDTH, annotation, picture, voc_file, voc_object


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["datasets", "check", *arguments])


def found(place: str, **options: object) -> dict[str, tuple[str, int]]:
    report = check(place, DatasetsConfig(), **options)  # type: ignore[arg-type]
    counts: dict[str, tuple[str, int]] = {}
    for _, item in report.all():
        before = counts.get(item.rule.what, ("", 0))[1]
        counts[item.rule.what] = (item.rule.severity, before + item.count)
    return counts


def test_nothing_wrong_is_status_0(json_set, voc_set):
    for place in (json_set("coco").write(), json_set("lvis").write()):
        done = run(place)
        assert done.exit_code == 0, done.output
        assert "2 images (2 decoded)" in done.stdout
        assert "nothing wrong" in done.stdout
    done = run(str(voc_set.root))
    assert done.exit_code == 0
    assert "difficult object" in done.stdout  # a note


def test_warnings_are_status_1_and_errors_status_2(json_set):
    coco = json_set("coco")
    coco.train["annotations"].append(annotation(3, 1, 7, [3, 3, 5, 0]))
    assert run(coco.write()).exit_code == 1
    coco.train["annotations"].append(annotation(4, 1, 7, [3, 3, 5, -1]))
    done = run(coco.write())
    assert done.exit_code == 2
    lines = [line.split()[0] for line in done.stdout.splitlines() if line[:1] != " "][1:]
    assert lines == ["error", "warning"]  # the worst first


def test_every_kind_of_warning_and_note(json_set):
    coco = json_set("coco")
    coco.train["images"] += [
        {"id": 3, "file_name": "000000000002.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 4, "file_name": "000000000004.jpg", "width": WIDTH, "height": HEIGHT},
    ]
    picture(coco.root / "train2017" / "000000000004.jpg")
    corners = [[1, 2, 3, 4, 5], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]
    coco.train["annotations"] += [
        annotation(3, 1, 7, [0, 0, 40, 30], iscrowd=1, segmentation={"size": [30, 40], "counts": [0, 1200]}),
        annotation(4, 1, 7, [5, 5, 3, 3], segmentation=corners),
        annotation(5, 1, 7, [5, 5, 3, 3], segmentation=[]),
        annotation(6, 1, 7, [5, 5, 0, 3]),
        annotation(7, 1, 7, [5, 5, 3, 3], segmentation={"size": [30, 40], "counts": [0, 1200]}),
        annotation(8, 1, 7, [5, 5, 3, 3], segmentation=[[1, 2, 3, 4, 5, 6], [41, 2, 44, 2, 44, 9]]),
    ]
    del coco.train["annotations"][1]["segmentation"]
    assert found(coco.write()) == {
        "image file listed twice": ("warning", 1),
        "object without a mask among some that have one": ("warning", 1),
        "polygon with an odd number of coordinates, or fewer than six": ("warning", 2),
        "polygon outside its image": ("warning", 1),
        "mask without a polygon": ("warning", 1),
        "box without area": ("warning", 1),
        "image without annotations": ("note", 2),
        "crowd": ("note", 1),
        "mask as RLE of an object that is no crowd": ("note", 1),
    }


@pytest.mark.parametrize("change", [lambda item: item.pop("segmentation"), lambda item: item.update(segmentation=None)])
def test_objects_without_masks_alone_are_a_note(json_set, change):
    coco = json_set("coco")
    for item in (*coco.train["annotations"], *coco.val["annotations"]):
        change(item)
    assert found(coco.write()) == {"no object has a mask": ("note", 2)}
    assert run(str(coco.root)).exit_code == 0
    for item in (*coco.train["annotations"], *coco.val["annotations"]):
        item["segmentation"] = []
    assert found(coco.write()) == {"no object has a mask": ("note", 2)}


def test_nothing_to_train_on_is_an_error(json_set, voc_set):
    coco = json_set("coco")
    coco.train["annotations"][0]["iscrowd"] = 1
    coco.train["annotations"][1]["bbox"][2] = 0
    assert found(coco.write())["no object to train on"] == ("error", 1)
    done = run(str(coco.root))
    assert done.exit_code == 2
    assert "instances_train2017.json: none of 2 annotations; add objects that are no crowds" in done.stdout
    coco.val["annotations"] = []  # only a note: there is nothing to find
    coco.train["annotations"][0]["iscrowd"] = 0
    assert "no object to train on" not in found(coco.write())
    for path in voc_set.root.rglob("*.xml"):
        path.write_text(voc_file())
    assert found(str(voc_set.root))["no object to train on"] == ("error", 1)


def test_one_name_for_one_category(json_set):
    coco = json_set("coco")
    coco.val["categories"][0]["name"] = "kitten"
    assert found(coco.write()) == {"categories differ between the splits": ("error", 1)}
    assert "category 7 is 'kitten', and 'cat' in the training split" in run(str(coco.root)).stdout


def test_one_image_under_two_names_is_listed_twice(json_set):
    coco = json_set("coco")
    coco.train["images"][1]["file_name"] = "./000000000001.jpg"
    assert found(coco.write()) == {"image file listed twice": ("warning", 1)}


def test_the_recipe_s_limit_of_pixels_holds(json_set):
    coco = json_set("coco")
    assert found(coco.write(), max_pixels=WIDTH * HEIGHT) == {}
    done = run(str(coco.root), "--set", f"images.max_pixels={WIDTH * HEIGHT - 1}")
    assert done.exit_code == 2
    assert f"more than the limit of {WIDTH * HEIGHT - 1} pixels" in done.stdout


def test_federated_lists_that_contradict_the_annotations(json_set):
    lvis = json_set("lvis")
    lvis.train["images"][0]["neg_category_ids"] = [7, 9]
    lvis.train["images"][1]["not_exhaustive_category_ids"] = [7, 9]
    assert found(lvis.write()) == {
        "category in both federated lists": ("warning", 2),
        "category that is marked, and listed as absent": ("warning", 1),
        "category not all marked, and none of it is": ("note", 1),
    }


def test_images_are_decoded_and_measured(json_set):
    coco = json_set("coco")
    place = coco.write()
    (coco.root / "train2017" / "000000000001.jpg").write_bytes(b"no image")
    picture(coco.root / "train2017" / "000000000002.jpg", (HEIGHT, WIDTH))
    (coco.root / "val2017" / "000000000011.jpg").write_bytes(b"")
    assert found(place) == {
        "image that cannot be decoded": ("error", 2),
        "image of another size than its annotations say": ("error", 1),
    }
    assert run(place, "--all").exit_code == 2
    assert run(place, "--sample", "0").exit_code == 0
    report = check(place, DatasetsConfig(), sample=1)
    assert [split.decoded for split in report.splits] == [1, 1]


def test_an_image_in_both_splits_is_a_warning(voc_set):
    voc_set.add("VOC2007", "test", "000001", voc_file(voc_object()))
    assert found(str(voc_set.root))["image in both splits"] == ("warning", 1)


def test_a_voc_box_without_the_first_pixel_column_is_as_it_is(voc_set):
    voc_set.annotations().write_text(voc_file(voc_object(box=(0, 1, 5, 5))))  # 1-based, but some have 0
    assert "box outside its image" not in found(str(voc_set.root))


def test_a_name_is_compared_with_what_was_published(json_set):
    coco = json_set("coco")
    done = run("coco2017", "--data", coco.write())
    assert done.exit_code == 2
    for words in ("2 images instead of 118,287", "2 annotations instead of 860,001", "3 instead of 80"):
        assert words in done.stdout
    done = run("mini-coco-5", "--set", f"datasets.coco={coco.root}")
    assert "1 images instead of 5,914" in done.stdout
    assert "860,001" not in done.stdout  # how many the share has was not published


def test_known_faults_of_the_published_files_are_notes(json_set, monkeypatch):
    from soco_core.datasets import check as module

    coco = json_set("coco")
    coco.train["annotations"] += [annotation(3, 1, 7, [3, 3, 5, 0]), annotation(4, 1, 7, [3, 3, 5, 0])]
    mine = Named("mine", "coco", "coco", "", {"train": Counts(2, 4), "val": Counts(2, 2)}, 3, known={DEGENERATE: 2})
    monkeypatch.setattr(module, "named", lambda name: mine)
    config = DatasetsConfig(coco=coco.write())
    assert [item.rule.severity for _, item in check("mine", config).all()] == ["note"]
    coco.train["annotations"].append(annotation(5, 1, 7, [3, 3, 5, 0]))
    config = DatasetsConfig(coco=coco.write())
    assert [item.rule.severity for _, item in check("mine", config).all()] == ["error", "warning"]


def test_sets_for_pretraining_and_for_the_probe(tmp_path: Path):
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "train/loose.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    assert found(str(tmp_path)) == {
        "categories differ between the splits": ("error", 1),
        "image outside the folders of classes": ("warning", 1),
    }
    shutil.rmtree(tmp_path / "train" / "b")
    assert found(str(tmp_path))["one class only"] == ("error", 1)
    picture(tmp_path / "train" / "b" / "2.png")
    picture(tmp_path / "val" / "b" / "2.png")
    assert found(str(tmp_path)) == {"image outside the folders of classes": ("warning", 1)}
    shutil.rmtree(tmp_path / "val" / "b")
    done = run("imagenet", "--data", str(tmp_path))
    assert "2 images instead of 1,281,167" in done.stdout
    assert "2 instead of 1,000" in done.stdout
    done = run("imagenet-subset", "--data", str(tmp_path))
    assert "241690 images, but" in done.stdout
    assert "has only 3" in done.stdout
    assert done.exit_code == 2
    for split in ("train2017", "unlabeled2017"):
        shutil.copytree(tmp_path / "train" / "a", tmp_path / "coco" / split)
    done = run("coco-train+unlabeled", "--data", str(tmp_path))
    assert done.stdout.count("1 images instead of") == 2
    (tmp_path / "coco" / "unlabeled2017" / "1.png").write_bytes(b"")
    assert "image that cannot be decoded" in run("coco-train+unlabeled", "--data", str(tmp_path)).stdout


def test_a_set_on_s3_is_checked_like_one_on_disk(voc_set, s3):
    from soco_core import storage

    (voc_set.root / "VOC2007" / "JPEGImages" / "000001.jpg").write_bytes(b"broken")
    for path in voc_set.root.rglob("*.*"):
        storage.write_bytes(f"{s3}/{path.relative_to(voc_set.root)}", path.read_bytes())
    there = found(s3)
    assert there == found(str(voc_set.root))
    assert there["image that cannot be decoded"] == ("error", 1)


def test_the_real_small_sets(shared_data):
    def real(name: str) -> dict[str, tuple[str, int]]:
        return found(str(shared_data / name), sample=5)

    assert real("coco-mini") == {"image without annotations": ("note", 2), "crowd": ("note", 11)}
    assert real("lvis-mini") == {}
    assert real("voc07-mini") == {"difficult object": ("note", 191)}
    assert run(str(shared_data / "voc07-mini"), "--sample", "5").exit_code == 0


def test_a_wrong_name_and_a_place_that_nobody_names_are_one_line(monkeypatch):
    monkeypatch.delenv("SOCO_DATA", raising=False)
    assert "the names are coco2017, mini-coco-5" in str(run("coco2O17").exception)
    assert "nobody says where voc lies" in str(run("voc0712").exception)
    assert "no such folder" in str(run("./nowhere").exception)


def test_the_list_names_every_set_and_where_it_lies(tmp_path):
    done = CliRunner().invoke(app, ["datasets", "list", "--set", f"datasets.coco={tmp_path}"])
    assert done.exit_code == 0
    assert "train 118,287, val 5,000" in done.stdout
    assert str(tmp_path) in done.stdout
    assert "nowhere: give --data, datasets.voc or SOCO_DATA" in done.stdout


numbers = st.one_of(st.integers(-50, 90), st.floats(-50, 90))


@given(numbers, numbers, numbers, numbers)
def test_a_box_has_at_most_one_fault_and_none_if_it_fits(x, y, width, height):
    rules = [rule for rule, _, _ in box_problems([x, y, width, height], WIDTH, HEIGHT)]
    inside = x >= -1 and y >= -1 and x + width <= WIDTH + 1 and y + height <= HEIGHT + 1
    if width < 0 or height < 0:
        expected: list[Rule] = [NEGATIVE_SIDE]
    elif not inside:
        expected = [OUTSIDE]
    else:
        expected = [] if width and height else [DEGENERATE]
    assert rules == expected


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        ([-1, -1, 42, 32], True),  # COCO's boxes reach over by rounding, up to a pixel
        ([0, 0, 41.01, 30], False),
        ([0, 0, 40, 31.01], False),
        ([-1.01, 0, 5, 5], False),
        ([0, -1.01, 5, 5], False),
    ],
)
def test_a_box_may_reach_over_by_a_pixel(box, fits):
    assert [rule for rule, _, _ in box_problems(box, WIDTH, HEIGHT)] == ([] if fits else [OUTSIDE])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(anything)
def test_whatever_a_file_holds_is_told_never_raised(value):
    boxes = list(box_problems(value, WIDTH, HEIGHT))
    assert all("\n" not in text for _, _, text in boxes)
    if not isinstance(value, list) or len(value) != 4:
        assert [rule for rule, _, _ in boxes] == [NO_BOX]
    masks = [*mask_problems(value, WIDTH, HEIGHT), *mask_problems({"size": [HEIGHT, WIDTH], "counts": value}, 40, 30)]
    assert all("\n" not in text for _, _, text in masks)
    is_safe_name(value)


@given(st.lists(st.floats(0, 30), max_size=12))
def test_a_polygon_needs_three_corners_with_both_coordinates(coordinates):
    rules = [rule for rule, _, _ in mask_problems([coordinates], WIDTH, HEIGHT)]
    assert rules == ([] if len(coordinates) in {6, 8, 10, 12} else [BAD_POLYGON])


@pytest.mark.parametrize(
    ("polygon", "outside"),
    [
        ([41, 2, 44, 2, 44, 9], True),
        ([-9, 2, -1, 2, -1, 9], True),
        ([2, 31, 9, 31, 9, 44], True),
        ([2, -1, 9, -1, 9, -4], True),
        ([39, 2, 44, 2, 44, 9], False),  # a part of it is inside
        ([-9, -9, 90, -9, 90, 90], False),
        ([40, 0, 40, 30, 40, 15], False),  # on the edge
        ([0, 0, 0, 30, 0, 15], False),
    ],
)
def test_a_polygon_that_covers_nothing_of_its_image(polygon, outside):
    problems = mask_problems([[1, 2, 3, 4, 5, 6], polygon], WIDTH, HEIGHT)
    assert [problem[:2] for problem in problems] == [(POLYGON_OUTSIDE, "segmentation[1]")] * outside


@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 25))
def test_compressed_rle_of_pycocotools_passes_and_a_cut_one_does_not(seed, height, width):
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)
    counts = rle_library.encode(np.asfortranarray(pixels))["counts"].decode()
    mask = {"size": [height, width], "counts": counts}
    assert list(mask_problems(mask, width, height)) == []
    assert [rule for rule, _, _ in mask_problems({**mask, "counts": counts[:-1]}, width, height)] == [RLE_COUNTS]


def test_a_truth_value_is_no_side_of_a_mask():
    for size in ([True, True], [1, True], [1.0, 1], "11"):
        assert [rule for rule, _, _ in mask_problems({"size": size, "counts": [1]}, 1, 1)] == [RLE_SIZE]
    assert list(mask_problems({"size": [1, 1], "counts": [1]}, 1, 1)) == []


@pytest.mark.parametrize("name", ["a.jpg", "b/a.jpg", "a..jpg", ".hidden.jpg", "./a.jpg", f"{'a' * 255}/猫.jpg"])
def test_names_inside_the_folder(name):
    assert is_safe_name(name)

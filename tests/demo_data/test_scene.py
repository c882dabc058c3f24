from __future__ import annotations

import numpy as np
import pytest

from soco_core.demo_data.annotations import annotation, segmentation
from soco_core.demo_data.scene import LEAST_VISIBLE, NAMES, SceneObject, render
from soco_core.demo_data.shapes import CLASSES, coverage


def scene(number: int, size: int = 160):
    return render(np.random.default_rng((0, 0, number)), size)


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_covers_its_centre_or_has_a_hole_and_ends_within_its_frame(name):
    v, u = (np.mgrid[-30:30, -30:30] + 0.5) / 20
    cover = coverage(CLASSES[name][0], u, v, 1 / 20)
    assert cover.min() == 0.0
    assert cover.max() == 1.0
    assert cover[[0, -1]].max() == 0.0
    assert (cover[30, 30] == 0.0) == (name == "spoked ring")


def test_the_area_of_a_disc_is_pi_r_squared():
    v, u = (np.mgrid[-30:30, -30:30] + 0.5) / 20
    assert coverage(CLASSES["striped disc"][0], u, v, 1 / 20).sum() == pytest.approx(np.pi * 400, rel=0.002)


def test_a_scene_is_uint8_rgb_and_repeats():
    first, objects = scene(1)
    again, _ = scene(1)
    assert first.shape == (160, 160, 3)
    assert first.dtype == np.uint8
    assert objects
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, scene(2)[0])


def test_visible_masks_do_not_overlap_and_every_class_and_occlusion_occur():
    scenes = [scene(number) for number in range(40)]
    for _, objects in scenes:
        assert sum(item.mask.astype(int) for item in objects).max() == 1
    assert {item.category for _, objects in scenes for item in objects} == set(range(len(NAMES)))
    sides = [np.sqrt(item.mask.sum()) / 160 for _, objects in scenes for item in objects]
    assert 0.2 < np.mean(sides) < 0.6


def test_an_object_mostly_hidden_is_dropped(monkeypatch):
    from soco_core.demo_data import scene as module

    whole = np.zeros((8, 8))
    whole[2:6, 2:6] = 1.0
    cover = np.zeros((8, 8))
    cover[2:6, 2:5] = 1.0  # hides 12 of 16 pixels: a quarter is left, less than 30 %
    place = [module._Placed(0, item, np.zeros((8, 8, 3)), slice(0, 8), slice(0, 8)) for item in (whole, cover)]
    masks, shares = module._visible(place, 8)
    assert shares == [0.25, 1.0]
    assert masks[0].sum() == 4
    assert not module._all_visible(place, 8)
    assert LEAST_VISIBLE == 0.3


def test_the_box_is_tight_and_the_area_is_the_mask_s():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 10:22] = True
    found = annotation(SceneObject(2, mask), 7, 3)
    assert found["bbox"] == [10, 4, 12, 5]
    assert found["area"] == 60
    assert (found["category_id"], found["id"], found["image_id"]) == (3, 7, 3)


def test_one_region_becomes_a_polygon_and_all_else_rle_that_pycocotools_reads():
    from pycocotools import mask as rle

    mask = np.zeros((40, 40), dtype=bool)
    mask[5:25, 5:25] = True
    polygon = segmentation(mask)
    assert isinstance(polygon, list)
    decoded = rle.decode(rle.merge(rle.frPyObjects(polygon, 40, 40))).astype(bool)
    assert (decoded & mask).sum() / (decoded | mask).sum() > 0.97

    mask[10:20, 10:20] = False  # a hole
    holed = segmentation(mask)
    assert isinstance(holed, dict)
    np.testing.assert_array_equal(rle.decode(holed).astype(bool), mask)

    mask[:] = False
    mask[2:8, 2:8] = mask[20:30, 20:30] = True  # two regions
    apart = segmentation(mask)
    assert isinstance(apart, dict)
    np.testing.assert_array_equal(rle.decode(apart).astype(bool), mask)


def test_polygons_of_rendered_objects_cover_their_masks():
    from pycocotools import mask as rle

    overlaps = []
    for number in range(10):
        for item in scene(number)[1]:
            found = segmentation(item.mask)
            if isinstance(found, list):
                decoded = rle.decode(rle.merge(rle.frPyObjects(found, 160, 160))).astype(bool)
                overlaps.append((decoded & item.mask).sum() / (decoded | item.mask).sum())
    assert min(overlaps) > 0.9
    assert np.mean(overlaps) > 0.96

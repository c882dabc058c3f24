from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from soco_core.config import ProposalsConfig
from soco_core.proposals.filters import filter_boxes
from soco_core.proposals.random_boxes import RandomBoxes

FOUR = ProposalsConfig(engine="random")


def draw(
    width: int, height: int, image_id: str = "a.png", seed: int = 0, config: ProposalsConfig = FOUR
) -> npt.NDArray[np.float32]:
    return RandomBoxes(config, seed).search(image_id, np.zeros((height, width, 3), np.uint8))


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (64, 64), (10, 8), (2, 2), (300, 60)])
def test_as_many_as_asked_for_and_all_meet_the_requirements(count: int, width: int, height: int) -> None:
    config = ProposalsConfig(engine="random", random_boxes=count)
    for k in range(20):
        boxes = draw(width, height, f"{k}.png", config=config)
        assert boxes.shape == (count, 4)
        assert boxes.dtype == np.float32
        assert (boxes == np.rint(boxes)).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [width, height]).all()
        for x1, y1, x2, y2 in boxes.astype(int).tolist():
            w, h = x2 - x1, y2 - y1
            assert w <= 3 * h
            assert h <= 3 * w
            # 0.3 <= sqrt(wh / WH) <= 0.8, squared and in whole numbers.
            assert 9 * width * height <= 100 * w * h <= 64 * width * height
        kept, step = filter_boxes(boxes, width, height, config)
        assert (len(kept), step) == (count, "strict")


def test_the_bounds_of_the_recipe_are_met() -> None:
    config = ProposalsConfig(
        engine="random",
        random_boxes=200,
        max_aspect_ratio=1.5,
        min_relative_size=0.1,
        max_relative_size=0.4,
        min_side=32,
    )
    boxes = draw(200, 150, config=config)
    assert filter_boxes(boxes, 200, 150, config)[1] == "strict"
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    assert len(boxes) == 200
    assert min(w.min(), h.min()) >= 32
    assert (np.maximum(w / h, h / w) <= 1.5).all()
    assert (w * h <= 0.16 * 200 * 150).all()


def test_the_distribution() -> None:
    """No box of a square image is too long up to a size of 1 / sqrt(3), so none is drawn again."""
    config = ProposalsConfig(engine="random", random_boxes=5000, max_relative_size=0.5)
    x1, y1, x2, y2 = draw(10_000, 10_000, config=config).astype(np.float64).T
    w, h = x2 - x1, y2 - y1
    assert len(w) == 5000
    for uniform in (
        (np.log(w / h) / np.log(3) + 1) / 2,
        (np.sqrt(w * h) / 10_000 - 0.3) / 0.2,
        x1 / (10_000 - w),
        y1 / (10_000 - h),
    ):
        shares, _ = np.histogram(uniform, bins=10, range=(0, 1))
        # 500 in each bin, with a standard deviation of 21; rounding may put one outside.
        assert shares.sum() >= 4990
        assert np.abs(shares - 500).max() < 90
    assert abs(np.corrcoef(w / h, w * h)[0, 1]) < 0.06


def test_every_place_is_reached() -> None:
    config = ProposalsConfig(engine="random", random_boxes=2000)
    boxes = draw(5, 5, config=config)
    # Sides of 2, 3 and 4 pixels (sqrt(wh) from 1.5 to 4), at every place from the first to the last.
    found = {tuple(box) for box in boxes.astype(int).tolist()}
    possible = {
        (x, y, x + w, y + h)
        for w in range(1, 6)
        for h in range(1, 6)
        if 2.25 <= w * h <= 16 and w <= 3 * h and h <= 3 * w
        for x in range(6 - w)
        for y in range(6 - h)
    }
    assert found <= possible
    assert len(found) > 0.95 * len(possible)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3000, 10), (10, 3000), (1, 100)])
def test_none_where_none_can_meet_them(width: int, height: int) -> None:
    boxes = draw(width, height)
    assert boxes.shape == (0, 4)
    assert filter_boxes(boxes, width, height, FOUR)[1] == "whole_image"


def test_none_where_the_least_side_is_too_long() -> None:
    assert len(draw(100, 100, config=ProposalsConfig(engine="random", min_side=81))) == 0


def test_seed_name_and_size_determine_them() -> None:
    boxes = draw(500, 375)
    assert draw(500, 375).tolist() == boxes.tolist()
    for other in (draw(500, 375, seed=1), draw(500, 375, image_id="b.png"), draw(501, 375), draw(500, 374)):
        # Not even nearly so, in relative terms.
        assert np.abs(other / ([500, 375] * 2) - boxes / ([500, 375] * 2)).max() > 0.1


def test_the_pixels_do_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    assert RandomBoxes(FOUR, 0).search("a.png", noise).tolist() == draw(500, 375).tolist()


def test_more_boxes_begin_with_fewer() -> None:
    eight = draw(500, 375, config=ProposalsConfig(engine="random", random_boxes=8))
    assert eight[:4].tolist() == draw(500, 375).tolist()


def test_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from soco_core.config import ProposalsConfig;"
        "from soco_core.proposals.random_boxes import RandomBoxes;"
        "engine = RandomBoxes(ProposalsConfig(engine='random'), 0);"
        "engine.search('other', np.zeros((9, 9, 3), np.uint8));"
        "print(engine.search('a.png', np.zeros((375, 500, 3), np.uint8)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(draw(500, 375).tolist())

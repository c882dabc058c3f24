from __future__ import annotations

import numpy as np
import pytest

from soco_core.config import ProposalsConfig
from soco_core.proposals.filters import distinct_boxes, filter_boxes, meets_requirements

PAPER = ProposalsConfig()


def kept(*sizes: tuple[float, float], image: tuple[int, int] = (100, 100), config: ProposalsConfig = PAPER):
    """Filter boxes of the given (width, height) at the origin; return the sizes kept and the step."""
    boxes = np.array([[0, 0, w, h] for w, h in sizes], dtype=np.float32)
    result, step = filter_boxes(boxes, *image, config)
    assert result.dtype == np.float32
    return [(float(x2 - x1), float(y2 - y1)) for x1, y1, x2, y2 in result], step


@pytest.mark.parametrize(
    ("size", "inside"),
    [
        ((30, 30), True),  # sqrt(900) / 100 = 0.3, the border belongs to it
        ((29, 31), False),  # 899
        ((80, 80), True),  # 0.8
        ((79, 81), True),  # 6399
        ((80, 81), False),  # 6480
        ((90, 30), True),  # w/h = 3
        ((91, 30), False),
        ((30, 90), True),  # w/h = 1/3
        ((30, 91), False),
    ],
)
def test_the_papers_rule_at_its_borders(size: tuple[int, int], inside: bool) -> None:
    # (50, 50) is always inside, so that no fallback is taken.
    sizes, step = kept((50, 50), size)
    assert step == "strict"
    assert sizes == ([(50, 50), size] if inside else [(50, 50)])


def test_the_borders_hold_for_every_image_size_where_they_are_whole() -> None:
    # W = H = 10 n: boxes of 3n and 8n lie exactly on a border, one pixel less or more does not.
    for n in range(1, 400):
        image = (10 * n, 10 * n)
        sizes, step = kept((3 * n, 3 * n), (8 * n, 8 * n), (3 * n, 3 * n - 1), (8 * n, 8 * n + 1), image=image)
        assert (sizes, step) == ([(3 * n, 3 * n), (8 * n, 8 * n)], "strict"), n


def test_thirds_are_exact_for_every_side() -> None:
    for side in range(1, 700):
        sizes, step = kept((3 * side, side), (side, 3 * side), (3 * side + 1, side), image=(10**4, 10**4))
        assert sizes[:2] == [(3 * side, side), (side, 3 * side)]
        assert len(sizes) == 2, (side, step)


def test_size_is_relative_to_the_images_area() -> None:
    # sqrt(200 * 50) = 100: 30 x 30 is at the border, 29 x 29 below.
    assert kept((30, 30), (29, 29), image=(200, 50)) == ([(30, 30)], "strict")


def test_fallback_to_the_aspect_ratio_alone() -> None:
    # Too small, too large and too long: no strict one; the first two have a good shape.
    assert kept((10, 10), (100, 100), (90, 10)) == ([(10, 10), (100, 100)], "aspect_ratio")


def test_fallback_to_the_least_side_alone() -> None:
    # All too long; 32 is enough, 31 is not.
    image = (400, 100)
    assert kept((100, 32), (100, 31), (300, 33), image=image) == ([(100, 32), (300, 33)], "min_side")


def test_fallback_to_the_whole_image() -> None:
    boxes = np.array([[0, 0, 100, 31], [0, 0, 31, 99]], np.float32)
    result, step = filter_boxes(boxes, 400, 100, PAPER)
    assert result.tolist() == [[0, 0, 400, 100]]
    assert step == "whole_image"
    result, step = filter_boxes(np.zeros((0, 4), np.float32), 1, 1, PAPER)
    assert result.tolist() == [[0, 0, 1, 1]]
    assert step == "whole_image"


def test_the_authors_least_side_is_part_of_the_strict_step_only() -> None:
    authors = ProposalsConfig(min_side=32)
    assert kept((31, 40), (32, 40), config=authors) == ([(32, 40)], "strict")
    assert kept((31, 40), config=authors) == ([(31, 40)], "aspect_ratio")


def test_other_bounds_of_the_recipe() -> None:
    config = ProposalsConfig(max_aspect_ratio=1.5, min_relative_size=0.1, max_relative_size=0.2)
    assert kept((10, 10), (9, 10), (20, 20), (21, 20), (18, 12), (19, 12), config=config) == (
        [(10, 10), (20, 20), (18, 12)],
        "strict",
    )


def test_a_box_without_width_or_height_meets_nothing() -> None:
    # Bounds that let everything pass: only the missing side counts.
    config = ProposalsConfig(min_relative_size=0.0, max_relative_size=1.0, fallback_min_side=1)
    assert kept((0, 0), (0, 5), (5, 0), (5, 5), config=config) == ([(5, 5)], "strict")
    assert kept((0, 0), (0, 50), (50, 0), config=config) == ([(100, 100)], "whole_image")
    assert kept((0, 0), (95, 95)) == ([(95, 95)], "aspect_ratio")


def test_the_requirements_alone() -> None:
    sizes = [(50, 50), (0, 0), (91, 30), (90, 30), (29, 31), (80, 81), (31, 90)]
    boxes = np.array([[5, 5, 5 + w, 5 + h] for w, h in sizes], np.float32)
    assert meets_requirements(boxes, 100, 100, PAPER).tolist() == [True, False, False, True, False, False, True]
    authors = ProposalsConfig(min_side=32)
    assert meets_requirements(boxes, 100, 100, authors).tolist() == [True, *[False] * 6]
    assert meets_requirements(np.zeros((0, 4), np.float32), 1, 1, PAPER).tolist() == []


def test_each_box_once_where_it_first_stands() -> None:
    boxes = np.array([[9, 0, 20, 9], [0, 0, 9, 9], [9, 0, 20, 9], [0, 0, 9, 8], [0, 0, 9, 9]], np.float32)
    np.testing.assert_array_equal(distinct_boxes(boxes), boxes[[0, 1, 3]])
    assert distinct_boxes(boxes[:0]).shape == (0, 4)

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from soco_core.config import ProposalsConfig
from soco_core.proposals import selective_search as module
from soco_core.proposals.selective_search import needs_reduction, selective_search

PAPER = ProposalsConfig()
Scene = Callable[[int, int, int], npt.NDArray[np.uint8]]


def test_boxes_are_unique_sorted_and_inside(scene: Scene) -> None:
    boxes = selective_search(scene(0, 120, 90), PAPER)
    assert boxes.dtype == np.float32
    assert len(boxes) > 4
    assert boxes.tolist() == sorted(map(list, {tuple(box) for box in boxes.tolist()}))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [120, 90]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert [0, 0, 120, 90] in boxes.tolist()  # the last group is everything


def test_an_object_is_found_to_the_pixel() -> None:
    image = np.full((80, 100, 3), 200, np.uint8)
    image[20:60, 30:70] = (20, 90, 30)
    boxes = selective_search(image, PAPER).tolist()
    # The Gaussian smears the edge by a pixel or two.
    assert any(np.abs(np.subtract(box, [30, 20, 70, 60])).max() <= 2 for box in boxes), boxes


def test_colours_reach_opencv_as_bgr(scene: Scene) -> None:
    """The same search written against OpenCV alone, on an image whose channels differ."""
    image = scene(3, 120, 90)
    segmentation = cv2.ximgproc.segmentation
    search = segmentation.createSelectiveSearchSegmentation()
    search.addImage(np.ascontiguousarray(image[:, :, ::-1]))
    search.addGraphSegmentation(segmentation.createGraphSegmentation(0.9, 500.0, 10))
    search.addStrategy(
        segmentation.createSelectiveSearchSegmentationStrategyMultiple(
            segmentation.createSelectiveSearchSegmentationStrategyColor(),
            segmentation.createSelectiveSearchSegmentationStrategyTexture(),
            segmentation.createSelectiveSearchSegmentationStrategySize(),
            segmentation.createSelectiveSearchSegmentationStrategyFill(),
        )
    )
    expected = sorted({(x, y, x + w, y + h) for x, y, w, h in search.process().tolist()})
    assert selective_search(image, PAPER).tolist() == [list(box) for box in expected]


def test_the_parameters_reach_the_search(scene: Scene) -> None:
    image = scene(1, 120, 90)
    finer = selective_search(image, ProposalsConfig(scale=20))
    assert len(finer) > len(selective_search(image, PAPER))
    assert len(selective_search(image, ProposalsConfig(scale=20, min_size=500))) < len(finer)
    assert selective_search(image, ProposalsConfig(scale=20, sigma=3.0)).tolist() != finer.tolist()


def test_the_same_in_this_process_again_and_in_another(scene: Scene, tmp_path: Path) -> None:
    image = scene(2, 120, 90)
    first = selective_search(image, PAPER)
    # OpenCV has drawn from rand() in between.
    assert selective_search(image, PAPER).tolist() == first.tolist()
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys; import numpy as np; from soco_core.config import ProposalsConfig;"
        "from soco_core.proposals.selective_search import selective_search;"
        "image = np.load(sys.argv[1]); selective_search(image[:50], ProposalsConfig());"
        "print(selective_search(image, ProposalsConfig()).tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "image.npy")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(first.tolist())


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 60), (60, 1), (3, 40), (5, 5), (16, 16)])
@pytest.mark.parametrize("flat", [True, False])
def test_tiny_images(size: tuple[int, int], flat: bool, scene: Scene) -> None:
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8) if flat else scene(0, width, height)
    boxes = selective_search(image, PAPER)
    assert len(boxes) >= 1
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_large_images_are_searched_reduced_and_boxes_scaled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((120, 400, 3), 200, np.uint8)
    image[40:80, 100:180] = (20, 90, 30)
    monkeypatch.setattr(module, "MAX_LONG_SIDE", 400)
    assert not needs_reduction(image)
    monkeypatch.setattr(module, "MAX_LONG_SIDE", 200)
    assert needs_reduction(image)
    boxes = selective_search(image, PAPER).tolist()
    assert any(np.abs(np.subtract(box, [100, 40, 180, 80])).max() <= 4 for box in boxes), boxes
    assert [0, 0, 400, 120] in boxes
    # Every corner lies on the grid of the reduced image, 200 x 60.
    assert all(value % 2 == 0 for box in boxes for value in box)


def test_a_sliver_keeps_a_pixel_when_reduced() -> None:
    assert selective_search(np.full((1, 3000, 3), 9, np.uint8), PAPER).tolist() == [[0, 0, 3000, 1]]

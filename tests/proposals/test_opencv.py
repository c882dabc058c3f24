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
from soco_core.proposals.opencv import opencv_search

PAPER = ProposalsConfig()
MODES = {
    "paper": PAPER,
    "all of single": ProposalsConfig(opencv_colours=("bgr", "hsv", "lab"), opencv_strategies=4),
    "fast": ProposalsConfig(opencv_mode="fast"),
    "quality": ProposalsConfig(opencv_mode="quality"),
}
Scene = Callable[[int, int, int], npt.NDArray[np.uint8]]
Boxes = set[tuple[float, ...]]

ximgproc = cv2.ximgproc.segmentation
together = ximgproc.createSelectiveSearchSegmentationStrategyMultiple
colour = ximgproc.createSelectiveSearchSegmentationStrategyColor
texture = ximgproc.createSelectiveSearchSegmentationStrategyTexture
size = ximgproc.createSelectiveSearchSegmentationStrategySize
fill = ximgproc.createSelectiveSearchSegmentationStrategyFill


def as_set(boxes: npt.NDArray[np.float32]) -> Boxes:
    return {tuple(box) for box in boxes.tolist()}


def found_with(image: npt.NDArray[np.uint8], *strategies: object, scale: float = 500.0) -> Boxes:
    """What OpenCV finds in an image that is handed to it as it is, at the paper's sigma and min_size."""
    search = ximgproc.createSelectiveSearchSegmentation()
    search.addImage(np.ascontiguousarray(image))
    search.addGraphSegmentation(ximgproc.createGraphSegmentation(0.9, scale, 10))
    for strategy in strategies:
        search.addStrategy(strategy)
    return {(x, y, x + w, y + h) for x, y, w, h in search.process().tolist()}


@pytest.mark.parametrize("mode", MODES)
def test_boxes_are_unique_sorted_and_inside(mode: str, scene: Scene) -> None:
    boxes = opencv_search(scene(0, 120, 90), MODES[mode])
    assert boxes.dtype == np.float32
    assert len(boxes) > 4
    assert boxes.tolist() == sorted(map(list, as_set(boxes)))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [120, 90]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert [0, 0, 120, 90] in boxes.tolist()  # the last group is everything


def test_an_object_is_found_to_the_pixel() -> None:
    image = np.full((80, 100, 3), 200, np.uint8)
    image[20:60, 30:70] = (20, 90, 30)
    boxes = opencv_search(image, PAPER).tolist()
    # The Gaussian smears the edge by a pixel or two.
    assert any(np.abs(np.subtract(box, [30, 20, 70, 60])).max() <= 2 for box in boxes), boxes


def test_the_papers_search_is_one_segmentation_of_the_bgr_image(scene: Scene) -> None:
    image = scene(3, 120, 90)
    expected = found_with(image[:, :, ::-1], together(colour(), texture(), size(), fill()))
    assert opencv_search(image, PAPER).tolist() == [list(box) for box in sorted(expected)]


@pytest.mark.parametrize(("space", "code"), [("hsv", cv2.COLOR_RGB2HSV), ("lab", cv2.COLOR_RGB2LAB)])
def test_other_colour_spaces(space: str, code: int, scene: Scene) -> None:
    image = scene(3, 160, 120)
    config = ProposalsConfig.model_validate({"scale": 100, "opencv_colours": (space,)})
    expected = found_with(cv2.cvtColor(image, code), together(colour(), texture(), size(), fill()), scale=100)
    assert as_set(opencv_search(image, config)) == expected
    assert as_set(opencv_search(image, ProposalsConfig(scale=100))) != expected


def test_the_boxes_of_all_colour_spaces_are_united(scene: Scene) -> None:
    image = scene(3, 160, 120)
    every = [opencv_search(image, ProposalsConfig(scale=100, opencv_colours=(one,))) for one in ("bgr", "hsv", "lab")]
    union = as_set(np.concatenate(every))
    config = ProposalsConfig(scale=100, opencv_colours=("bgr", "hsv", "lab"))
    assert as_set(opencv_search(image, config)) == union
    assert len(union) > max(len(boxes) for boxes in every)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_strategies_group_the_same_segments_each_on_its_own(count: int, scene: Scene) -> None:
    image = scene(7, 160, 120)
    bgr = image[:, :, ::-1]
    groupings = [
        found_with(bgr, together(colour(), texture(), size(), fill()), scale=50),
        found_with(bgr, together(texture(), size(), fill()), scale=50),
        found_with(bgr, fill(), scale=50),
        found_with(bgr, size(), scale=50),
    ]
    config = ProposalsConfig.model_validate({"scale": 50, "opencv_strategies": count})
    assert as_set(opencv_search(image, config)) == set.union(*groupings[:count])
    # Each adds something, or the test would not notice one that is left out.
    assert len(set.union(*groupings[:count])) > len(set.union(set(), *groupings[: count - 1]))


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_opencvs_own_modes(mode: str, scene: Scene) -> None:
    image = scene(3, 120, 90)
    search = ximgproc.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    {"fast": search.switchToSelectiveSearchFast, "quality": search.switchToSelectiveSearchQuality}[mode]()
    expected = {(x, y, x + w, y + h) for x, y, w, h in search.process().tolist()}
    assert as_set(opencv_search(image, MODES[mode])) == expected


def test_the_parameters_reach_the_search(scene: Scene) -> None:
    image = scene(1, 120, 90)
    finer = opencv_search(image, ProposalsConfig(scale=20))
    assert len(finer) > len(opencv_search(image, PAPER))
    assert len(opencv_search(image, ProposalsConfig(scale=20, min_size=500))) < len(finer)
    assert opencv_search(image, ProposalsConfig(scale=20, sigma=3.0)).tolist() != finer.tolist()


@pytest.mark.parametrize("mode", ["paper", "quality"])
def test_the_same_in_this_process_again_and_in_another(mode: str, scene: Scene, tmp_path: Path) -> None:
    image = scene(2, 120, 90)
    first = opencv_search(image, MODES[mode])
    # OpenCV has drawn from rand() in between.
    assert opencv_search(image, MODES[mode]).tolist() == first.tolist()
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys; import numpy as np; from soco_core.config import ProposalsConfig;"
        "from soco_core.proposals.opencv import opencv_search;"
        "image = np.load(sys.argv[1]); config = ProposalsConfig.model_validate_json(sys.argv[2]);"
        "opencv_search(image[:50], config);"
        "print(opencv_search(image, config).tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "image.npy"), MODES[mode].model_dump_json()]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(first.tolist())


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 60), (60, 1), (3, 40), (5, 5), (16, 16)],
)
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_tiny_images(mode: str, width: int, height: int, flat: bool, scene: Scene) -> None:
    image = np.full((height, width, 3), 90, np.uint8) if flat else scene(0, width, height)
    boxes = opencv_search(image, MODES[mode])
    assert len(boxes) >= 1
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()

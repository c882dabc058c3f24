from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from soco_core.config import ProposalsConfig
from soco_core.proposals.engines import Engine, build_engine
from soco_core.proposals.imported import convert_boxes_file
from soco_core.proposals.opencv import opencv_search
from soco_core.proposals.reduction import ReducedSearch, needs_reduction, reduce_image, scale_back

Scene = Callable[[int, int, int], npt.NDArray[np.uint8]]


def ramp(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Pixel (x, y) is (x, y, 0)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


@pytest.fixture
def boxes_file(tmp_path: Path) -> Path:
    """Boxes of the image `a.png`, converted."""
    source = tmp_path / "boxes.json"
    source.write_text(json.dumps({"a": [[1, 2, 30, 40], [5, 6, 20, 25]]}))
    convert_boxes_file(source, tmp_path / "boxes.arrow")
    return tmp_path / "boxes.arrow"


def test_reduction_averages_and_keeps_the_shape() -> None:
    image = ramp(200, 80)
    assert not needs_reduction(image, 200)
    assert reduce_image(image, 200) is image
    assert needs_reduction(image, 199)
    quarter = reduce_image(image, 50)
    # Pixel k of the quarter is the mean of 4k to 4k + 3, rounded.
    assert quarter.shape == (20, 50, 3)
    assert quarter.dtype == np.uint8
    assert np.abs(quarter.astype(float) - (4.0 * ramp(50, 20) + [1.5, 1.5, 0])).max() <= 0.5
    assert reduce_image(ramp(80, 200), 100).shape == (100, 40, 3)


def test_a_sliver_keeps_a_pixel_when_reduced() -> None:
    assert reduce_image(ramp(3000, 1), 1000).shape == (1, 1000, 3)
    assert reduce_image(ramp(1, 3000), 64).shape == (64, 1, 3)
    engine = build_engine(ProposalsConfig(), 0, None)
    assert engine.search("a", np.full((1, 3000, 3), 9, np.uint8)).tolist() == [[0, 0, 3000, 1]]


def test_boxes_are_scaled_back_by_the_true_factors() -> None:
    # 301 x 100 at a long side of 100: 100 x 33, so x by 3.01 and y by 100 / 33.
    image = ramp(301, 100)
    copy = reduce_image(image, 100)
    assert copy.shape == (33, 100, 3)
    boxes = np.array([[90, 3, 100, 33], [0, 0, 100, 33], [10, 11, 20, 22]], np.float32)
    expected = [[270.9, 300 / 33, 301, 100], [0, 0, 301, 100], [30.1, 1100 / 33, 60.2, 2200 / 33]]
    scaled = scale_back(boxes, copy, image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)
    assert scaled[:2, 2:].tolist() == [[301, 100], [301, 100]]  # not a pixel beyond, nor a millionth
    assert scale_back(boxes, image, image) is boxes


def test_the_edges_of_a_copy_are_those_of_the_image() -> None:
    for side in range(65, 5000, 3):
        image = np.broadcast_to(np.uint8(0), (1, side, 3))
        for long_side in (64, 333, 1000):
            copy = np.broadcast_to(np.uint8(0), (1, min(side, long_side), 3))
            boxes = np.array([[0, 0, copy.shape[1], 1]], np.float32)
            assert scale_back(boxes, copy, image).tolist() == [[0, 0, side, 1]]


def test_order_and_repetitions_of_a_search_are_kept() -> None:
    found = np.array([[50, 0, 60, 10], [0, 0, 20, 20], [50, 0, 60, 10]], np.float32)
    engine = ReducedSearch(lambda image: found, 100)
    assert engine.search("a", ramp(200, 100)).tolist() == (found * 2).tolist()
    assert engine.search("a", ramp(100, 50)).tolist() == found.tolist()


def test_a_large_image_is_searched_reduced() -> None:
    image = np.full((120, 400, 3), 200, np.uint8)
    image[40:80, 100:180] = (20, 90, 30)
    boxes = build_engine(ProposalsConfig(max_long_side=200), 0, None).search("a", image).tolist()
    assert any(np.abs(np.subtract(box, [100, 40, 180, 80])).max() <= 4 for box in boxes), boxes
    assert [0, 0, 400, 120] in boxes
    # Every corner lies on the grid of the reduced image, 200 x 60.
    assert all(value % 2 == 0 for box in boxes for value in box)


def test_the_engine_of_each_name(scene: Scene, boxes_file: Path) -> None:
    image = scene(5, 120, 90)

    def found(engine: Engine) -> list[list[float]]:
        boxes = engine.search("folder/a.png", image)
        assert boxes.dtype == np.float32
        return boxes.tolist()

    fast = ProposalsConfig(opencv_mode="fast")
    assert found(build_engine(fast, 0, None)) == opencv_search(image, fast).tolist()
    random = ProposalsConfig(engine="random", random_boxes=3)
    assert len(found(build_engine(random, 0, None))) == 3
    assert found(build_engine(random, 0, None)) != found(build_engine(random, 1, None))
    imported = ProposalsConfig(engine="import", boxes_file="boxes.json")
    assert found(build_engine(imported, 0, boxes_file)) == [[1, 2, 31, 42], [5, 6, 25, 31]]


@pytest.mark.parametrize("texture_range", ["unit", "byte"])
def test_the_exact_engine_has_its_parameters(texture_range: str, scene: Scene) -> None:
    from soco_core.proposals.exact import exact_search

    config = ProposalsConfig.model_validate(
        {
            "engine": "exact",
            "scale": 60,
            "sigma": 0.7,
            "min_size": 15,
            "exact_texture_range": texture_range,
            "max_long_side": 100,
        }
    )
    image = scene(5, 160, 120)
    reduced = cv2.resize(image, (100, 75), interpolation=cv2.INTER_AREA)
    expected = exact_search(reduced, scale=60, sigma=0.7, min_size=15, texture_range=config.exact_texture_range)
    boxes = build_engine(config, 0, None).search("a", image)
    np.testing.assert_allclose(boxes, expected * 1.6, rtol=1e-6)


@pytest.mark.parametrize("engine", ["opencv", "random", "import"])
def test_only_the_exact_engine_loads_a_compiler(engine: str, boxes_file: Path) -> None:
    config = ProposalsConfig.model_validate(
        {"engine": engine, "boxes_file": "boxes.json" if engine == "import" else ""}
    )
    code = (
        "import sys; import numpy as np; from soco_core.config import ProposalsConfig;"
        "from soco_core.proposals.engines import build_engine; from pathlib import Path;"
        "config = ProposalsConfig.model_validate_json(sys.argv[1]);"
        "build_engine(config, 0, Path(sys.argv[2])).search('a', np.zeros((40, 50, 3), np.uint8));"
        "print(sorted({'numba', 'skimage', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, config.model_dump_json(), str(boxes_file)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"

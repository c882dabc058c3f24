"""What holds for every image and every file, tried on many that hypothesis makes up."""

from __future__ import annotations

import ctypes
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from soco_core.artifacts.proposals import ProposalRow
from soco_core.config import ProposalsConfig
from soco_core.proposals.engines import Engine, build_engine
from soco_core.proposals.filters import filter_boxes
from soco_core.proposals.imported import convert_boxes_file
from soco_core.proposals.workers import Proposer, Search

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]

ENGINES = {
    "opencv": (ProposalsConfig(), 120),
    "opencv, all of single": (ProposalsConfig(opencv_colours=("bgr", "hsv", "lab"), opencv_strategies=4), 20),
    "opencv fast": (ProposalsConfig(opencv_mode="fast"), 12),
    "opencv quality": (ProposalsConfig(opencv_mode="quality"), 10),
    "opencv, the authors' filter": (ProposalsConfig(min_side=32, max_long_side=64), 60),
    "exact": (ProposalsConfig(engine="exact"), 120),
    "exact, the authors' parameters": (
        ProposalsConfig(
            engine="exact", scale=300, min_size=100, min_side=32, exact_texture_range="byte", max_long_side=64
        ),
        60,
    ),
    "random": (ProposalsConfig(engine="random", random_boxes=8), 100),
    "random, the authors' filter": (ProposalsConfig(engine="random", random_boxes=8, min_side=32), 100),
}
"""Of each engine, how many images are tried."""


def tried(count: int) -> settings:
    """The same examples in every run, and so the same result."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def images(draw: st.DrawFn) -> Pixels:
    """Noise, one colour, a ramp or blocks, of any shape from 1x1 to 3000x10 and 10x3000."""
    sides = draw(
        st.one_of(
            st.sampled_from([(1, 1), (1, 2), (2, 2), (3000, 10), (3000, 1), (1001, 2), (65, 64)]),
            st.tuples(st.integers(1, 60), st.integers(1, 60)),
            st.tuples(st.integers(1, 3000), st.integers(1, 10)),
        )
    )
    width, height = sides if draw(st.booleans()) else sides[::-1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "flat", "ramp", "blocks"]))
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == "ramp":
        y, x = np.mgrid[:height, :width]
        values = np.stack([x / width, y / height, (x + y) / (width + height)], axis=2)
        return (255 * values).astype(np.uint8)
    side = int(rng.integers(2, 20))
    blocks = rng.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
    return blocks.repeat(side, axis=0).repeat(side, axis=1)[:height, :width].copy()


def assert_inside(boxes: Boxes, width: int, height: int) -> None:
    assert boxes.dtype == np.float32
    assert boxes.shape[1:] == (4,)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def strictness(box: list[float], width: int, height: int, config: ProposalsConfig) -> float:
    """By how much a box meets all requirements (3.2): above 0 it does, below it does not.

    An independent formula: areas and logarithms instead of sides and ratios.
    """
    w, h = box[2] - box[0], box[3] - box[1]
    if w <= 0 or h <= 0:
        return -1.0
    share = w * h / (width * height)
    return min(
        np.log(config.max_aspect_ratio) - abs(np.log(w / h)),
        share - config.min_relative_size**2,
        config.max_relative_size**2 - share,
        min(w, h) - config.min_side if config.min_side else 1.0,
    )


def assert_filtered(boxes: Boxes, image: Pixels, config: ProposalsConfig) -> None:
    """Check what the filter makes of the boxes of an engine."""
    height, width = image.shape[:2]
    kept, step = filter_boxes(boxes, width, height, config)
    assert len(kept) >= 1
    assert_inside(kept, width, height)
    assert (kept[:, 2:] > kept[:, :2]).all()
    # On a bound itself rounding decides.
    margins = np.array([strictness(box, width, height, config) for box in boxes.tolist()])
    if step == "strict":
        assert min(strictness(box, width, height, config) for box in kept.tolist()) > -1e-6
        assert (margins > 1e-6).sum() <= len(kept) <= (margins > -1e-6).sum()
    else:
        assert not (margins > 1e-6).any()
    if step == "whole_image":
        assert kept.tolist() == [[0, 0, width, height]]


def twice(engine: Engine, other: Engine, image: Pixels) -> Boxes:
    """Search with two engines of the same kind; they find the same, and leave the image alone."""
    before = image.copy()
    boxes = engine.search("folder/image.png", image)
    assert other.search("folder/image.png", image).tobytes() == boxes.tobytes()
    assert (image == before).all()
    return boxes


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_on_images_of_every_shape(name: str) -> None:
    config, count = ENGINES[name]
    engine, other = build_engine(config, 3, None), build_engine(config, 3, None)

    @tried(count)
    @given(images())
    def check(image: Pixels) -> None:
        boxes = twice(engine, other, image)
        assert_inside(boxes, image.shape[1], image.shape[0])
        if config.engine == "random":
            assert len(boxes) <= config.random_boxes
            assert all(strictness(box, *image.shape[1::-1], config) > -1e-6 for box in boxes.tolist())
        else:
            assert len(boxes) >= 1
        assert_filtered(boxes, image, config)

    check()


BOX = st.tuples(
    *[st.one_of(st.integers(-100, 4000), st.floats(-1e9, 1e9, width=32))] * 2,
    *[st.one_of(st.integers(0, 4000), st.floats(0, 1e9, width=32))] * 2,
)


def test_imported_boxes_of_every_kind(tmp_path: Path) -> None:
    config = ProposalsConfig(engine="import", boxes_file="boxes.json")
    source, target = tmp_path / "boxes.json", tmp_path / "boxes.arrow"

    @tried(60)
    @given(images(), st.lists(BOX, min_size=1, max_size=12))
    def check(image: Pixels, given_boxes: list[tuple[float, float, float, float]]) -> None:
        source.write_text(json.dumps({"image": given_boxes, "another": [[0, 0, 1, 1]]}))
        convert_boxes_file(source, target)
        boxes = twice(build_engine(config, 0, target), build_engine(config, 0, target), image)
        height, width = image.shape[:2]
        assert_inside(boxes, width, height)
        expected = [(max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)) for x, y, w, h in given_boxes]
        # An edge that float32 moves onto the image's own may take a box away, or leave a sliver.
        sure = [(x1, y1, x2, y2) for x1, y1, x2, y2 in expected if x2 - x1 > 1e-3 and y2 - y1 > 1e-3]
        assert len(sure) <= len(boxes) <= len(expected)
        if len(sure) == len(boxes):
            np.testing.assert_allclose(boxes, np.reshape(sure, (-1, 4)), rtol=1e-6, atol=1e-3)
        assert_filtered(boxes, image, config)

    check()


@dataclass(frozen=True)
class OneFile:
    """An image source of a single file."""

    data: bytes
    root = "/images"
    remote = False

    def read_bytes(self, image_id: str) -> bytes:
        return self.data


def proposed(data: bytes, config: ProposalsConfig, max_pixels: int = 200_000) -> ProposalRow:
    [row] = Proposer(Search(OneFile(data), config, max_pixels, 0, None)).rows(["image.jpg"])
    [again] = Proposer(Search(OneFile(data), config, max_pixels, 0, None)).rows(["image.jpg"])
    assert {**vars(again), "boxes": again.boxes.tolist()} == {**vars(row), "boxes": row.boxes.tolist()}
    assert row.id == "image.jpg"
    assert row.boxes.dtype == np.float32
    if row.error is not None:
        assert row.error.strip()
        assert (row.width, row.height, row.boxes.shape, row.kept_by, row.reduced) == (0, 0, (0, 4), None, False)
        return row
    assert 0 < row.width * row.height <= max_pixels
    assert len(row.boxes) >= 1
    assert_inside(row.boxes, row.width, row.height)
    assert row.reduced == (config.engine in {"opencv", "exact"} and max(row.width, row.height) > config.max_long_side)
    if row.kept_by == "strict":
        assert min(strictness(box, row.width, row.height, config) for box in row.boxes.tolist()) > -1e-6
    return row


def encoded(image: Pixels, file_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize(
    "config", [ProposalsConfig(), ProposalsConfig(engine="exact"), ProposalsConfig(engine="random")]
)
def test_every_image_file_gets_a_row_with_boxes(config: ProposalsConfig) -> None:
    @tried(25)
    @given(images(), st.sampled_from(["PNG", "BMP", "JPEG"]))
    def check(image: Pixels, file_format: str) -> None:
        row = proposed(encoded(image, file_format), config)
        assert (row.error, row.width, row.height) == (None, image.shape[1], image.shape[0])

    check()


def test_arbitrary_bytes_get_a_row_with_a_reason() -> None:
    @tried(100)
    @given(st.binary(max_size=400))
    def check(data: bytes) -> None:
        assert proposed(data, ProposalsConfig()).error is not None

    check()


def test_damaged_image_files_get_a_row() -> None:
    """Some are read with other pixels or another size, most are refused; none stops the run."""
    rows: list[ProposalRow] = []

    @tried(150)
    @given(
        images(),
        st.sampled_from(["PNG", "BMP", "JPEG", "GIF", "TIFF", "WEBP"]),
        st.floats(0, 1),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
        st.binary(max_size=20),
    )
    def check(image: Pixels, file_format: str, share: float, changes: list[tuple[float, int]], more: bytes) -> None:
        data = bytearray(encoded(image[:400, :400], file_format))
        data = data[: round(share * len(data))] if share < 0.7 else data
        for place, value in changes:
            if data:
                data[int(place * min(len(data), 200))] = value
        rows.append(proposed(bytes(data + more), ProposalsConfig(max_long_side=100)))

    check()
    assert {row.error is None for row in rows} == {True, False}


def test_the_state_of_the_c_librarys_generator_does_not_matter() -> None:
    """OpenCV draws the order of its boxes from it, and so may any other library of the process."""
    engine = build_engine(ProposalsConfig(opencv_mode="fast"), 0, None)
    library = ctypes.CDLL(None)

    @tried(8)
    @given(images(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
    def check(image: Pixels, one: int, other: int) -> None:
        library.srand(one)
        boxes = engine.search("a", image)
        library.srand(other)
        assert engine.search("a", image).tobytes() == boxes.tobytes()

    check()

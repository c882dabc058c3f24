"""The picture of an image's views."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from soco_core.config import ModelConfig, Recipe, ViewsConfig
from soco_core.views import draw
from soco_core.views.draw import PicturedImage, draw_views, level_names
from soco_core.views.panels import Box, Corners, Panel, _spot, draw_panels

GRID = np.array([[x, y, x + 70, y + 60] for x in range(0, 251, 25) for y in range(0, 141, 20)], np.float32)


@pytest.fixture
def pictured() -> PicturedImage:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 320, 3), dtype=np.uint8)
    return PicturedImage("$odd\u96ea.jpg", pixels, GRID, 3)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[list[Panel]]:
    """The panels that were drawn."""
    seen: list[list[Panel]] = []

    def keep(panels: list[list[Panel]], legend: str) -> bytes:
        seen.extend(panels)
        return draw_panels(panels, legend)

    monkeypatch.setattr(draw, "draw_panels", keep)
    return seen


def recipe(**fields: Any) -> Recipe:
    return Recipe(seed=5, views=ViewsConfig(**fields))


def test_a_row_an_image_with_all_views(pictured: PicturedImage, rows: list[list[Panel]], tmp_path: Path) -> None:
    path = tmp_path / "views.png"
    draw_views(path, [pictured, pictured._replace(number=4)], recipe(fourth_view=True), epoch=2)
    assert [len(row) for row in rows] == [5, 5]
    original, first, second, third, fourth = rows[0]
    assert "320 x 200 px, 88 proposals" in original.title
    assert [name for name, _ in original.crops] == ["V2 V3", "V4"]
    assert len(original.thin) == len(GRID)
    assert [panel.title[:2] for panel in rows[0][1:]] == ["V1", "V2", "V3", "V4"]
    scales = [panel.inches[0] / first.inches[0] for panel in (second, third, fourth)]
    assert scales == pytest.approx([1, 112 / 224, 192 / 224])
    for panel in (second, third, fourth):
        assert panel.linked
        assert [box.colour for box in panel.boxes] == [box.colour for box in first.boxes]
        assert [box.label.split()[0] for box in panel.boxes] == [box.label.split()[0] for box in first.boxes]
        assert all(box.label.split()[1] in {"P2", "P3", "P4", "P5"} for box in panel.boxes)
    for box in original.boxes:
        assert box.corners == tuple(GRID[int(box.label)].tolist())
    height = Image.open(path).height
    assert height > 2 * 3.2 * 110


def test_jittered_boxes_show_where_they_were(pictured: PicturedImage, rows: list[list[Panel]], tmp_path: Path) -> None:
    fields: dict[str, Any] = {"flip_probability": 0.0, "jitter_views": "first"}
    for probability in (1.0, 0.0):
        draw_views(tmp_path / "views.png", [pictured], recipe(jitter_probability=probability, **fields))
    jittered, plain = rows
    assert all(box.before is not None for box in jittered[1].boxes)
    assert [box.before for box in jittered[1].boxes] == [box.corners for box in plain[1].boxes]
    assert all(box.before is None for panel in (*jittered[2:], *plain) for box in panel.boxes)


def test_per_pair_has_a_row_for_each_pair(pictured: PicturedImage, rows: list[list[Panel]], tmp_path: Path) -> None:
    draw_views(tmp_path / "views.png", [pictured], recipe(draw="per-pair", third_view="crop"))
    assert [[panel.title[:2] for panel in row[1:]] for row in rows] == [["V1", "V2"], ["V1", "V3"]]
    for original, first, other in rows:
        assert [box.label.split()[0] for box in first.boxes] == [box.label.split()[0] for box in other.boxes]
        assert [box.colour for box in first.boxes] == [box.colour for box in other.boxes]
        assert {box.label for box in original.boxes} == {box.label.split()[0] for box in first.boxes}
        assert [name for name, _ in original.crops] == [other.title[:2]]


def test_a_view_without_proposals_is_whole(pictured: PicturedImage, rows: list[list[Panel]], tmp_path: Path) -> None:
    draw_views(tmp_path / "views.png", [pictured._replace(proposals=GRID[:0])], recipe(proposals_per_image=1))
    original, first, second, third = rows[0]
    assert original.boxes == []
    assert [panel.boxes[0].label for panel in (first, second, third)] == ["whole P5", "whole P5", "whole P4"]


def test_levels_are_named_as_boxes_are_pooled() -> None:
    # sqrt(area): 48, 49, 100, 200.
    boxes = torch.tensor([[0.0, 0, 48, 48], [0, 0, 49, 49], [0, 0, 100, 100], [0, 0, 200, 200]])
    assert level_names(boxes, ModelConfig()) == ["P2", "P3", "P4", "P5"]
    assert level_names(boxes, ModelConfig(scale_aware=False, single_level="P3")) == ["P3"] * 4
    assert level_names(boxes, ModelConfig(architecture="c4")) == ["C4"] * 4
    without = {"use_fpn": False, "use_head": False, "scale_aware": False}
    assert level_names(boxes, ModelConfig(**without, backbone_level="C5")) == ["C5"] * 4


def test_a_box_is_drawn_where_it_is() -> None:
    """On a black picture of 100 x 50 pixels, 4 x 2 inches wide, its colour is along its sides and not inside."""
    box = Box((20.0, 10.0, 80.0, 40.0), "7 P3", "#00ff00")
    panel = Panel(np.zeros((50, 100, 3), np.uint8), (4.0, 2.0), "V1", "", [box])
    drawn = np.asarray(Image.open(io.BytesIO(draw_panels([[panel]], "legend"))).convert("RGB")).astype(int)
    green = (drawn[..., 1] > 200) & (drawn[..., 0] < 60)
    black = (drawn < 5).all(-1)
    rows, columns = np.nonzero(black)
    left, top = columns.min(), rows[columns == columns.min()].min()
    across, down = np.nonzero(green.sum(0) > 60)[0], np.nonzero(green.sum(1) > 120)[0]
    assert across.min() - left == pytest.approx(4.4 * 20, abs=4)
    assert across.max() - left == pytest.approx(4.4 * 80, abs=4)
    assert down.min() - top == pytest.approx(4.4 * 10, abs=4)
    assert down.max() - top == pytest.approx(4.4 * 40, abs=4)
    assert not green[top + 110, left + 220]


def test_labels_lie_on_the_panel_and_not_upon_each_other() -> None:
    """Sixteen boxes that share their corners, one at the border and one smaller than its label among them."""
    size = (110.0, 110.0)
    boxes = [(0.0, 0.0, 100.0, 90.0)] * 14 + [(60.0, 60.0, 110.0, 110.0), (2.0, 106.0, 5.0, 109.0)]
    taken: list[Corners] = []
    for number, box in enumerate(boxes):
        taken.append(_spot(box, 4, number % 4, taken, size))
    for number, (x1, y1, x2, y2) in enumerate(taken):
        assert min(x1, y1) >= 0
        assert max(x2, y2) <= 110
        for a1, b1, a2, b2 in taken[:number]:
            assert min(x2, a2) <= max(x1, a1) + 1e-9 or min(y2, b2) <= max(y1, b1) + 1e-9
    assert all(min(x1, y1) < 5 or x2 > 95 or y2 > 85 for x1, y1, x2, y2 in taken[:12])


def test_the_first_label_has_the_corner_asked_for() -> None:
    for corner in range(4):
        x1, y1, x2, y2 = _spot((20.0, 20.0, 80.0, 90.0), 2, corner, [], (110.0, 110.0))
        assert (x1 > 40, y1 > 50) == (corner % 2 == 1, corner >= 2)
        assert (x1, y1) > (20, 20)
        assert (x2, y2) < (80, 90)


def test_a_label_is_written_where_it_was_put() -> None:
    """White letters on its colour, as large as reckoned; equal labels of the same box once."""
    box = Box((20.0, 10.0, 80.0, 40.0), "7 P3", "#ff0000")
    panel = Panel(np.zeros((50, 100, 3), np.uint8), (4.0, 2.0), "", "", [box, box])
    drawn = np.asarray(Image.open(io.BytesIO(draw_panels([[panel]], "legend"))).convert("RGB")).astype(int)
    red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60)
    filled = red[:-6, :-6] & red[6:, :-6] & red[:-6, 6:] & red[6:, 6:]  # the label; an outline is thinner
    rows, columns = np.nonzero(filled)
    down, across = np.nonzero((drawn < 5).all(-1))
    left, top = across.min(), down[across == across.min()].min()
    x1, y1, x2, y2 = (110 / 72 * value for value in _spot((57.6, 28.8, 230.4, 115.2), 4, 0, [], (288.0, 144.0)))
    assert columns.min() - left == pytest.approx(x1, abs=5)
    assert rows.min() - top == pytest.approx(y1, abs=5)
    assert columns.max() + 6 - left == pytest.approx(x2, abs=7)
    assert rows.max() + 6 - top == pytest.approx(y2, abs=5)

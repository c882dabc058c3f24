"""The pictures: they are drawn for any set, and say what they show."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from soco_core.artifacts.proposals import ProposalRow, Proposals, read_rows, write_merged, write_rows
from soco_core.config import ProposalsConfig, Recipe
from soco_core.images import open_image_set
from soco_core.proposals import figures
from soco_core.proposals.figures import draw_contact_sheet, draw_histograms
from tests.proposals.conftest import MakeImages, names_of


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that were saved."""
    saved: list[matplotlib.figure.Figure] = []
    original = figures._save

    def save(figure: matplotlib.figure.Figure, path: Path) -> None:
        saved.append(figure)
        original(figure, path)

    monkeypatch.setattr(figures, "_save", save)
    return saved


def proposals_of(folder: Path, rows: list[ProposalRow]) -> Proposals:
    write_rows(folder / "rows.parquet", rows)
    image_set = {
        "root": "/set",
        "layout": "folder",
        "splits": [],
        "subset": "",
        "fingerprint": "f" * 16,
        "fingerprint_mode": "sizes",
        "images": len(rows),
    }
    write_merged(folder, read_rows(folder / "rows.parquet"), {"image_set": image_set, "search": {"engine": "opencv"}})
    return Proposals(folder)


def boxes(*sides: int) -> np.ndarray:
    return np.array([[0, 0, side, side] for side in sides], np.float32)


def test_the_histograms_hold_every_box_and_image(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    counts = [1] * 3 + [2] * 5 + [4] * 2
    rows = [ProposalRow(f"{k}.png", 99, 99, boxes(*range(10, 10 + n)), "strict") for k, n in enumerate(counts)]
    draw_histograms(tmp_path / "h.png", proposals_of(tmp_path, rows), ProposalsConfig())
    left, right = drawn[0].axes
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in left.patches}
    assert heights == {1: 3, 2: 5, 3: 0, 4: 2}
    assert sum(bar.get_height() for bar in right.patches) == sum(counts)
    assert left.get_xlabel() == "proposals per image"
    assert right.get_xlabel() == r"proposal size $\sqrt{hw}$ (pixels)"
    # (3 x 1 + 5 x 2 + 2 x 4) / 10
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["mean 2.1", "median 2.0"]
    assert "scale 500, sigma 0.9, min_size 10" in drawn[0].get_suptitle()
    assert Image.open(tmp_path / "h.png").size == (990, 385)


def test_a_few_extremes_do_not_squeeze_the_rest(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    rows = [ProposalRow(f"{k:03d}.png", 99, 99, boxes(*[9] * (k % 3 + 1)), "strict") for k in range(250)]
    rows.append(ProposalRow("999.png", 99, 99, boxes(*[9] * 700), "strict"))
    draw_histograms(tmp_path / "h.png", proposals_of(tmp_path, rows), ProposalsConfig())
    left = drawn[0].axes[0]
    assert max(bar.get_x() for bar in left.patches) < 4
    assert left.get_legend().get_texts()[-1].get_text() == "1 beyond, up to 700"


def test_the_sheet_shows_some_boxes_of_images_over_the_whole_set(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, drawn: list[matplotlib.figure.Figure]
) -> None:
    images = make_images(23)
    source = open_image_set(str(images)).source
    names = names_of(images)
    rows = [ProposalRow(name, 72, 54, boxes(*range(10, 30)), "strict") for name in names[:-1]]
    rows.append(ProposalRow(names[-1], 72, 54, boxes(20, 20), "min_side"))
    (images / names[0]).unlink()  # gone since: the sheet is drawn all the same
    draw_contact_sheet(tmp_path / "s.png", proposals_of(tmp_path, rows), source, recipe)
    axes = drawn[0].axes
    titles = [axis.get_title().splitlines() for axis in axes]
    assert [title[0] for title in titles] == names[::2]
    assert titles[0][1] == "20 proposals"
    assert titles[-1][1] == "2 proposals, 1 distinct (kept by min_side)"
    assert [len(axis.patches) for axis in axes] == [6] * 11 + [1]
    x1, x2 = axes[0].images[0].get_extent()[:2]
    assert (x1, x2) == (0, 72)


def test_a_set_of_one_image(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(1)
    proposals = proposals_of(tmp_path, [ProposalRow("0/000.png", 72, 54, boxes(20), "strict")])
    draw_contact_sheet(tmp_path / "s.png", proposals, open_image_set(str(images)).source, recipe)
    draw_histograms(tmp_path / "h.png", proposals, recipe.proposals)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (
            {"opencv_colours": ("hsv", "lab"), "opencv_strategies": 2},
            "Selective search (OpenCV, HSV+LAB, 2 strategies, scale 500, sigma 0.9, min_size 10)",
        ),
        ({"opencv_mode": "quality"}, "Selective search (OpenCV, mode quality)"),
        ({"engine": "exact"}, "Selective search (exact, scale 500, sigma 0.9, min_size 10)"),
        ({"engine": "random", "random_boxes": 8}, "Random boxes (8 drawn an image)"),
        ({"engine": "import", "boxes_file": "s3://b/coco.json"}, "Boxes of coco.json"),
    ],
)
def test_the_title_says_what_found_the_boxes(config: dict, wanted: str) -> None:
    assert figures._described(ProposalsConfig(**config)) == wanted

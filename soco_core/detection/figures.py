"""Pictures of detections: a page of validation images with what is there and what was found, and single images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soco_core.datasets.split import LabelledSplit, polygons
from soco_core.detection.data import read_image
from soco_core.detection.masks import decode_rle
from soco_core.images.decode import DEFAULT_MAX_PIXELS
from soco_core.plotting import png
from soco_core.storage import write_bytes

COLUMNS_SHOWN = 8
DPI = 100
LEAST_PICTURE = 64
"""No side of a picture is smaller, in pixels."""
SCORE_SHOWN = 0.5
"""Detections below this score would only hide the others."""


def draw_detections(
    split: LabelledSplit, predictions: list[dict[str, Any]], path: Path, max_pixels: int = DEFAULT_MAX_PIXELS
) -> None:
    """Write a PNG: the truth of some images above, the detections in them below.

    Args:
        split: the evaluated split; images spread evenly over it are shown.
        predictions: COCO results.
        path: the file.
        max_pixels: the recipe's `images.max_pixels`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    positions = np.linspace(0, len(split.images) - 1, min(COLUMNS_SHOWN, len(split.images))).astype(int)
    figure = Figure(figsize=(2.2 * len(positions), 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(positions), squeeze=False)
    for column, position in enumerate(positions):
        record = split.images[position]
        pixels = read_image(split, record, max_pixels)
        best = [item for item in predictions if item["image_id"] == record["id"] and item["score"] >= SCORE_SHOWN]
        _draw(axes[0, column], pixels, split.annotations_of[record["id"]], split)
        _draw(axes[1, column], pixels, best, split)
        axes[0, column].set_title(str(record["file_name"]), fontsize=7, parse_math=False)
    axes[0, 0].set_ylabel("annotated", fontsize=9)
    axes[1, 0].set_ylabel(f"found (score ≥ {SCORE_SHOWN})", fontsize=9)
    write_bytes(path, png(figure, 110))


def draw_found(
    split: LabelledSplit, position: int, found: list[dict[str, Any]], max_pixels: int = DEFAULT_MAX_PIXELS
) -> bytes:
    """Return a PNG of one image with what was found in it, as large as the image unless that is tiny.

    Args:
        split: holds the image and the categories.
        position: the image's.
        found: COCO results of this image.
        max_pixels: the recipe's `images.max_pixels`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixels = read_image(split, split.images[position], max_pixels)
    height, width = pixels.shape[:2]
    scale = max(1.0, LEAST_PICTURE / min(height, width))
    figure = Figure(figsize=(scale * width / DPI, scale * height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1), frameon=False)
    _draw(axis, pixels, found, split, 8.0)
    return png(figure, DPI)


def _draw(
    axis: Any, pixels: NDArray[np.uint8], items: list[dict[str, Any]], split: LabelledSplit, font: float = 4.5
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Polygon, Rectangle

    axis.imshow(pixels)
    axis.set_xticks([])
    axis.set_yticks([])
    height, width = pixels.shape[:2]
    for item in items:
        index = split.class_of[item["category_id"]]
        colour = colormaps["tab10"](index % 10)
        x, y, box_width, box_height = item["bbox"]
        axis.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5),
                box_width,
                box_height,
                fill=False,
                edgecolor=colour,
                linewidth=1.2,
                linestyle="--" if item.get("difficult") else "-",
            )
        )
        if isinstance(item.get("segmentation"), dict):
            layer = np.zeros((height, width, 4))
            layer[decode_rle(item["segmentation"], height, width) > 0] = (*colour[:3], 0.4)
            axis.imshow(layer)
        elif "segmentation" in item:
            for polygon in polygons(item):
                axis.add_patch(Polygon(polygon.reshape(-1, 2) - 0.5, facecolor=colour, alpha=0.4))
        label = split.categories[index]["name"] + (f" {item['score']:.2f}" if "score" in item else "")
        axis.text(x, y, label, fontsize=font, color="white", va="bottom", clip_on=True, parse_math=False).set_bbox(
            {"facecolor": colour, "edgecolor": "none", "pad": 0.6}
        )

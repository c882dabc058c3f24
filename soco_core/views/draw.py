"""A picture of an image's views with their boxes and levels, as in the paper's Figure 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from soco_core.config import Recipe
from soco_core.models.regions import assign_levels
from soco_core.models.soco import ViewBatch
from soco_core.storage import atomic_file
from soco_core.views.augment import denormalise

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_views(path: Path, views: list[ViewBatch], names: list[str], recipe: Recipe) -> None:
    """Write a PNG with a row for each image and a column for each view.

    Args:
        path: the PNG.
        views: what the networks see, of the same images.
        names: the images' ids.
        recipe: its level limits name the level of each box.
    """
    from matplotlib.figure import Figure

    rows, columns = len(names), len(views)
    figure = Figure(figsize=(3.2 * columns, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for column, view in enumerate(views):
        pictures = denormalise(view.images.cpu()).permute(0, 2, 3, 1).numpy()
        levels = assign_levels(view.boxes.cpu(), recipe.model.level_limits)
        for row, name in enumerate(names):
            axis = axes[row][column]
            axis.imshow(pictures[row], interpolation="nearest")
            _draw_boxes(axis, view.boxes[row].cpu(), levels[row])
            title = f"V{column + 1}, {view.images.shape[-1]} px"
            axis.set_title(f"{title}\n{name}" if column == 0 else title, fontsize=9)
            axis.set_axis_off()
    figure.suptitle("Views with their boxes: the same colour is the same proposal, P2..P5 its level", fontsize=10)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=80, metadata={"Software": None})


def _draw_boxes(axis: Axes, boxes: torch.Tensor, levels: torch.Tensor) -> None:
    from matplotlib.patches import Rectangle

    for number, ((x0, y0, x1, y1), level) in enumerate(zip(boxes.tolist(), levels.tolist(), strict=True)):
        colour = f"C{number % 10}"
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2))
        axis.text(x0 + 1, y0 + 1, f"P{level + 2}", color="white", fontsize=7, va="top", backgroundcolor=colour)

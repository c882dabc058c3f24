"""Pictures side by side, with boxes on them and lines between boxes that belong together."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Corners = tuple[float, float, float, float]
"""x1 y1 x2 y2."""

GAP = 0.3
"""Between panels, in inches."""
ABOVE, BELOW, LINE = 0.5, 0.3, 0.18
"""Room for a panel's title, its caption, and a line of the legend, in inches."""
LETTERS = 14
"""Letters of the legend that fit into an inch."""
DARK = "#000000b0"


class Box(NamedTuple):
    """A box with its label."""

    corners: Corners
    label: str
    colour: str
    before: Corners | None = None
    """Where it was before it was jittered; None if it was not. Drawn dashed."""


class Panel(NamedTuple):
    """One picture."""

    pixels: npt.NDArray[Any]
    """RGB, uint8 or float in [0, 1], [H, W, 3]."""
    inches: tuple[float, float]
    """Width and height on paper."""
    title: str
    caption: str
    boxes: Sequence[Box]
    linked: bool = False
    """Whether box i is joined with box i of the panel to the left."""
    thin: Sequence[Corners] = ()
    """Boxes that are only hinted at."""
    crops: Sequence[tuple[str, Corners]] = ()
    """Names and frames of crops."""


def draw_panels(rows: Sequence[Sequence[Panel]], legend: str) -> bytes:
    """Draw rows of panels with a legend above; return the PNG."""
    from matplotlib.figure import Figure

    heights = [max(panel.inches[1] for panel in row) for row in rows]
    width = max(sum(panel.inches[0] + GAP for panel in row) for row in rows) + GAP
    lines = textwrap.wrap(legend, int((width - 2 * GAP) * LETTERS))
    head = LINE * (len(lines) + 1)
    height = head + sum(heights) + len(rows) * (ABOVE + BELOW)
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(GAP / width, 1 - LINE / 2 / height, "\n".join(lines), fontsize=9, va="top", parse_math=False)
    top = height - head
    for row, row_height in zip(rows, heights, strict=True):
        left, before = GAP, None
        for panel in row:
            w, h = panel.inches
            bottom = top - ABOVE - (row_height + h) / 2
            axis = figure.add_axes((left / width, bottom / height, w / width, h / height))
            _draw_panel(axis, panel)
            if before is not None and panel.linked:
                _draw_arrows(figure, before, (axis, panel))
            left, before = left + w + GAP, (axis, panel)
        top -= ABOVE + row_height + BELOW
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a file's name may be in any script
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _draw_panel(axis: Axes, panel: Panel) -> None:
    from matplotlib import patheffects

    height, width = panel.pixels.shape[:2]
    smooth = panel.inches[0] * 110 < width
    axis.imshow(
        panel.pixels, extent=(0, width, height, 0), aspect="auto", interpolation="bilinear" if smooth else "nearest"
    )
    dark = [patheffects.withStroke(linewidth=3.2, foreground=DARK)]
    faint = [patheffects.withStroke(linewidth=1.3, foreground="#00000060")]
    for corners in panel.thin:
        _outline(axis, corners, edgecolor="white", linewidth=0.6, path_effects=faint)
    for number, (name, corners) in enumerate(panel.crops):
        _outline(axis, corners, edgecolor="white", linewidth=1.6, linestyle=(0, (5, 3)), path_effects=dark)
        _label(axis, corners, name, "black", 3 - number % 4)
    for box in panel.boxes:
        if box.before is not None:
            _outline(axis, box.before, edgecolor=box.colour, linewidth=1.1, linestyle=(0, (2, 2)))
        _outline(axis, box.corners, edgecolor=box.colour, linewidth=1.8, path_effects=dark)
    for number, box in enumerate(panel.boxes):
        _label(axis, box.corners, box.label, box.colour, number % 4)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(panel.title, fontsize=9, parse_math=False)
    axis.set_xlabel(panel.caption, fontsize=7.5, color="#444444", parse_math=False)


def _outline(axis: Axes, corners: Corners, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = corners
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, clip_on=False, **style))


def _label(axis: Axes, corners: Corners, text: str, colour: str, corner: int) -> None:
    """Write a label inside a corner of a box (0: upper left, then upper right, lower left, lower right)."""
    x1, y1, x2, y2 = corners
    right, low = corner % 2 == 1, corner >= 2
    axis.annotate(
        text,
        (x2 if right else x1, y2 if low else y1),
        xytext=(-1.5 if right else 1.5, 1.5 if low else -1.5),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if low else "top",
        fontsize=6.5,
        color="white",
        parse_math=False,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"},
    )


def _draw_arrows(figure: Figure, left: tuple[Axes, Panel], right: tuple[Axes, Panel]) -> None:
    """Join the right side of each box with the left side of its match."""
    from matplotlib.patches import ConnectionPatch

    for one, other in zip(left[1].boxes, right[1].boxes, strict=True):
        line = ConnectionPatch(
            xyA=(one.corners[2], (one.corners[1] + one.corners[3]) / 2),
            xyB=(other.corners[0], (other.corners[1] + other.corners[3]) / 2),
            coordsA=left[0].transData,
            coordsB=right[0].transData,
            arrowstyle="-|>",
            mutation_scale=7,
            shrinkB=0,
            color=one.colour,
            linewidth=0.9,
        )
        figure.add_artist(line)

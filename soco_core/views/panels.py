"""Pictures side by side, with boxes on them and lines between boxes that belong together."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from soco_core.plotting import png

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
LABEL_SIZE = 6.5
LETTER_POINTS = (0.64 * LABEL_SIZE, 1.17 * LABEL_SIZE)
"""Width (a digit's; few letters are wider) and height of a letter of a label, in points."""
PAD = 1.2
"""Around a label's text, in points."""
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
    return png(figure, 110)


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
    for _, corners in panel.crops:
        _outline(axis, corners, edgecolor="white", linewidth=1.6, linestyle=(0, (5, 3)), path_effects=dark)
    for box in panel.boxes:
        if box.before is not None:
            _outline(axis, box.before, edgecolor=box.colour, linewidth=1.1, linestyle=(0, (2, 2)))
        _outline(axis, box.corners, edgecolor=box.colour, linewidth=1.8, path_effects=dark)
    _write_labels(axis, panel)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(panel.title, fontsize=9, parse_math=False)
    axis.set_xlabel(panel.caption, fontsize=7.5, color="#444444", parse_math=False)


def _write_labels(axis: Axes, panel: Panel) -> None:
    """Write all labels, none upon another where there is room; equal ones of the same box once."""
    height, width = panel.pixels.shape[:2]
    size = 72 * panel.inches[0], 72 * panel.inches[1]
    x, y = size[0] / width, size[1] / height
    labels = [(box.corners, box.label, box.colour, number % 4) for number, box in enumerate(panel.boxes)]
    labels += [(corners, name, "black", 3 - number % 4) for number, (name, corners) in enumerate(panel.crops)]
    taken: list[Corners] = []
    written = set()
    for (x1, y1, x2, y2), text, colour, first in labels:
        if (x1, y1, x2, y2, text) in written:
            continue
        written.add((x1, y1, x2, y2, text))
        taken.append(_spot((x1 * x, y1 * y, x2 * x, y2 * y), len(text), first, taken, size))
        axis.annotate(
            text,
            ((taken[-1][0] + taken[-1][2]) / 2 / x, (taken[-1][1] + taken[-1][3]) / 2 / y),
            ha="center",
            va="center",
            fontsize=LABEL_SIZE,
            color="white",
            parse_math=False,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"},
        )


def _outline(axis: Axes, corners: Corners, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = corners
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, clip_on=False, **style))


def _spot(corners: Corners, letters: int, first: int, taken: Sequence[Corners], size: tuple[float, float]) -> Corners:
    """Find room for a label inside a box: in a corner, else at an edge, else anywhere; least on what is taken.

    Args:
        corners: the box, in points from the panel's upper left corner, as is all else.
        letters: of the label.
        first: corner to begin with (0: upper left, then upper right, lower left, lower right).
        taken: places of other labels.
        size: width and height of the panel, which no label leaves.

    Returns:
        The label's place.
    """
    width, height = letters * LETTER_POINTS[0] + 2 * PAD, LETTER_POINTS[1] + 2 * PAD
    x1, y1, x2, y2 = corners

    def along(low: float, high: float, length: float, limit: float) -> list[float]:
        end = high - PAD - length
        places = [low + PAD, end, *(low + PAD + k * length for k in range(1, max(int((end - low) / length), 0)))]
        return [min(max(place, 0.0), limit - length) for place in places]

    across, down = along(x1, x2, width, size[0]), along(y1, y2, height, size[1])
    ends = [(corner % 2, corner // 2) for corner in sorted(range(4), key=lambda corner: (corner - first) % 4)]
    grid = [(i, j) for i in range(len(across)) for j in range(len(down)) if max(i, j) > 1]
    numbers = ends + sorted(grid, key=lambda spot: min(spot) > 1)
    spots = [(across[i], down[j], across[i] + width, down[j] + height) for i, j in numbers]
    return min(spots, key=lambda spot: sum(_overlap(spot, other) for other in taken))


def _overlap(a: Corners, b: Corners) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


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

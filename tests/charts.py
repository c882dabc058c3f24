"""What a reader sees of a drawn chart: whether a line is cut, and whether a legend covers one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOM = 2.0
"""Least distance in pixels of a line's middle to the upper and the lower edge."""


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Any]) -> Figure:
    """Return the one figure that `draw` writes."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", keep)
        draw()
    (figure,) = figures
    figure.canvas.draw()
    return figure


def check_lines_seen(axes: Axes) -> None:
    """Check that no line of the chart touches its upper or lower edge."""
    box = axes.get_window_extent()
    for line in axes.lines:
        heights = axes.transData.transform(line.get_xydata())[:, 1]  # type: ignore[arg-type]
        title = axes.get_title() or axes.get_title("left")
        assert box.y0 + ROOM < heights.min() <= heights.max() < box.y1 - ROOM, title


def check_legend_covers_nothing(axes: Axes) -> None:
    """Check that the chart has a legend, in the picture and beside the curves."""
    legend = axes.get_legend()
    assert legend is not None
    place = legend.get_window_extent()
    assert not place.overlaps(axes.get_window_extent())
    figure = axes.get_figure()
    assert figure is not None
    assert figure.bbox.x0 <= place.x0 < place.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= place.y0 < place.y1 <= figure.bbox.y1
    assert not any(place.overlaps(other.get_tightbbox()) for other in figure.axes if other is not axes)

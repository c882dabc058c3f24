"""What the pictures of several stages have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as a PNG, the same bytes for the same figure.

    Names of the user's in it may be in any script: a letter that the font lacks is drawn as an empty box.
    """
    import io
    import warnings

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def from_zero(axes: Axes, least_top: float = 0.0) -> None:
    """Let the vertical axis begin at 0, with room for a line at 0 and for one at the largest value.

    A small change of a share, a rate or a spread then does not look like a large one.

    Args:
        axes: of values that are not negative, drawn already.
        least_top: what the axis reaches at least, not negative; where this and all values are 0, it reaches 1.
    """
    # Of no finite value the limit is minus infinity.
    top = max(float(axes.dataLim.y1), least_top) or 1.0
    # A line on the edge itself is cut through its middle, or cannot be told from the frame.
    axes.set_ylim(-0.04 * top, 1.06 * top)

"""The object classes of the rendered scenes: what each looks like, as coverage and paint.

Every function works on coordinates (u, v) of the object's own frame, in which the object fills the unit
disc or square, and one pixel is `pixel` wide. Distances are negative inside the object.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outline = Callable[[Array, Array], Array]
Pattern = Callable[[Array, Array], Array]


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 1.0


def _box(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _triangle(u: Array, v: Array) -> Array:
    half = np.sqrt(3) / 2
    return np.maximum(np.maximum(half * u - 0.5 * v, -half * u - 0.5 * v), v) - 0.55


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.72) - 0.28


def _star(u: Array, v: Array) -> Array:
    # Five points: fold the angle into one tenth of a turn, then one straight edge bounds the star.
    sector = np.pi / 5
    angle = np.abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    tip, notch = np.array([1.0, 0.0]), 0.45 * np.array([np.cos(sector), np.sin(sector)])
    edge = notch - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (radius * np.cos(angle) - 1.0) * normal[0] + radius * np.sin(angle) * normal[1]


def _stripes(u: Array, v: Array) -> Array:
    return np.sin(2 * np.pi * 2.2 * u)


def _checks(u: Array, v: Array) -> Array:
    return np.sin(2 * np.pi * 1.2 * u) * np.sin(2 * np.pi * 1.2 * v)


def _dots(u: Array, v: Array) -> Array:
    return 0.18 - np.hypot((u + 0.25) % 0.5 - 0.25, (v + 0.25) % 0.5 - 0.25)


def _spokes(u: Array, v: Array) -> Array:
    return np.sin(9 * np.arctan2(v, u))


def _circles(u: Array, v: Array) -> Array:
    return np.sin(2 * np.pi * 2.4 * np.hypot(u, v))


CLASSES: dict[str, tuple[Outline, Pattern]] = {
    "striped disc": (_disc, _stripes),
    "checkered box": (_box, _checks),
    "dotted triangle": (_triangle, _dots),
    "spoked ring": (_ring, _spokes),
    "circled star": (_star, _circles),
}
"""Name -> (outline: signed distance, pattern: its sign chooses between the object's two colours)."""


def coverage(outline: Outline, u: Array, v: Array, pixel: float) -> Array:
    """Return the share of each pixel that the object covers, in [0, 1], with antialiased edges."""
    return np.clip(0.5 - outline(u, v) / pixel, 0.0, 1.0)


def paint(pattern: Pattern, u: Array, v: Array, pixel: float, colours: Array) -> Array:
    """Return the object's colour at each pixel, [..., 3] in [0, 1]; `colours` is [2, 3]."""
    value = pattern(u, v)
    down, across = np.gradient(value)
    # Divided by how much it changes over a pixel, the pattern's value is a distance to its edge in pixels.
    slope = np.maximum(np.hypot(down, across), 0.05 * pixel)
    share = np.clip(0.5 + value / slope, 0.0, 1.0)[..., None]
    return share * colours[0] + (1 - share) * colours[1]

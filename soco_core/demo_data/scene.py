"""Rendering of one scene: a textured background, and objects that hide one another."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soco_core.demo_data.shapes import CLASSES, Array, coverage, paint

MIN_OBJECTS, MAX_OBJECTS = 2, 4
MIN_SIDE, MAX_SIDE = 0.28, 0.65
"""Side of an object (twice its radius) as a share of the image's side."""
LEAST_VISIBLE = 0.3
"""An object that is hidden beyond this share of its area is not there at all: nobody could label it."""
NAMES = tuple(CLASSES)


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene."""

    category: int
    """Index into `NAMES`."""
    mask: NDArray[np.bool_]
    """Its visible pixels, [H, W]."""


@dataclass(frozen=True)
class _Placed:
    category: int
    cover: Array
    colour: Array
    rows: slice
    columns: slice


def render(generator: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[SceneObject]]:
    """Draw a scene.

    Args:
        generator: source of every random choice.
        size: side of the image in pixels.

    Returns:
        The image, uint8 RGB [size, size, 3], and its objects, the hindmost first.
    """
    image = _background(generator, size)
    placed: list[_Placed] = []
    for _ in range(int(generator.integers(MIN_OBJECTS, MAX_OBJECTS + 1))):
        candidate = _place(generator, size)
        # Painter's order: the newest object lies on top. It is not drawn if too little of another remained.
        if _all_visible([*placed, candidate], size):
            placed.append(candidate)
    for item in placed:
        window = image[item.rows, item.columns]
        window += item.cover[..., None] * (item.colour - window)
    image += generator.normal(0.0, generator.uniform(0.005, 0.03), image.shape)
    pixels = (np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    masks, _ = _visible(placed, size)
    return pixels, [SceneObject(item.category, mask) for item, mask in zip(placed, masks, strict=True)]


def _place(generator: np.random.Generator, size: int) -> _Placed:
    category = int(generator.integers(len(NAMES)))
    outline, pattern = CLASSES[NAMES[category]]
    radius = size * generator.uniform(MIN_SIDE, MAX_SIDE) / 2
    stretch = generator.uniform(0.85, 1.18)
    angle = generator.uniform(0, 2 * np.pi)
    # The centre keeps half a radius inside, so that some objects are cut off by the image's border.
    x, y = generator.uniform(radius / 2, size - radius / 2, 2)
    reach = int(np.ceil(radius * max(stretch, 1 / stretch) * np.sqrt(2))) + 2
    rows = slice(max(0, int(y) - reach), min(size, int(y) + reach + 1))
    columns = slice(max(0, int(x) - reach), min(size, int(x) + reach + 1))
    down, across = np.mgrid[rows, columns] + 0.5
    right = np.cos(angle) * (across - x) + np.sin(angle) * (down - y)
    below = np.cos(angle) * (down - y) - np.sin(angle) * (across - x)
    u, v = right / (radius * stretch), below * stretch / radius
    colour = paint(pattern, u, v, 1 / radius, _colours(generator))
    # One light falls on the whole object, so that its colour alone does not give the class away.
    light = 1 + generator.uniform(-0.25, 0.25) * u + generator.uniform(-0.25, 0.25) * v
    return _Placed(category, coverage(outline, u, v, 1 / radius), colour * light[..., None], rows, columns)


def _colours(generator: np.random.Generator) -> Array:
    """Two colours that differ clearly in lightness, whatever their hues."""
    dark, bright = generator.uniform(0.1, 0.35), generator.uniform(0.65, 0.95)
    pair = [
        colorsys.hls_to_rgb(generator.uniform(), lightness, generator.uniform(0.3, 1.0)) for lightness in (dark, bright)
    ]
    return np.array(pair if generator.uniform() < 0.5 else pair[::-1])


def _visible(placed: list[_Placed], size: int) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """Return each object's visible pixels, and which share of its own pixels they are."""
    free = np.ones((size, size), dtype=bool)
    masks, shares = [], []
    for item in reversed(placed):
        whole = np.zeros((size, size), dtype=bool)
        whole[item.rows, item.columns] = item.cover > 0.5
        masks.append(whole & free)
        shares.append(float(masks[-1].sum() / max(1, whole.sum())))
        free &= ~whole
    return masks[::-1], shares[::-1]


def _all_visible(placed: list[_Placed], size: int) -> bool:
    masks, shares = _visible(placed, size)
    return min(shares) >= LEAST_VISIBLE and min(int(mask.sum()) for mask in masks) >= (size / 16) ** 2


def _background(generator: np.random.Generator, size: int) -> Array:
    """A gradient, clouds of three scales, a faint weave, and strokes and blots that look like nothing."""
    down, across = (np.mgrid[0:size, 0:size] + 0.5) / size
    corners = generator.uniform(0.15, 0.85, (2, 2, 3))
    weights = np.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], -1)
    image = weights @ corners.reshape(4, 3)
    for cells in (3, 8, 24):
        amount = generator.uniform(0.02, 0.14)
        image += amount * _clouds(generator, cells, size)[..., None] * generator.uniform(0.5, 1.0, 3)
    angle, waves = generator.uniform(0, np.pi), generator.uniform(4, 18)
    weave = np.sin(2 * np.pi * waves * (np.cos(angle) * across + np.sin(angle) * down))
    image += generator.uniform(0.0, 0.06) * weave[..., None]
    for _ in range(int(generator.integers(3, 11))):
        _stroke(generator, image)
    return image


def _clouds(generator: np.random.Generator, cells: int, size: int) -> Array:
    """Value noise in [-1, 1]: a coarse random grid, enlarged smoothly."""
    grid = generator.uniform(-1, 1, (cells + 1, cells + 1))
    position = np.linspace(0, cells, size, endpoint=False)
    first = position.astype(int)
    share = position - first
    share = share * share * (3 - 2 * share)
    rows = grid[first] * (1 - share)[:, None] + grid[first + 1] * share[:, None]
    return rows[:, first] * (1 - share) + rows[:, first + 1] * share


def _stroke(generator: np.random.Generator, image: Array) -> None:
    """Draw one straight stroke or round blot of one colour, half transparent."""
    size = len(image)
    start, end = generator.uniform(0, size, 2), generator.uniform(0, size, 2)
    step = (end - start) * generator.choice([0.05, 0.5])
    width = size * generator.uniform(0.008, 0.035)
    opacity, colour = generator.uniform(0.3, 0.9), generator.uniform(0, 1, 3)
    low = np.maximum(np.minimum(start, start + step) - width - 1, 0).astype(int)
    high = np.minimum(np.maximum(start, start + step) + width + 2, size).astype(int)
    window = image[low[1] : high[1], low[0] : high[0]]
    down, across = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    along = np.clip(((across - start[0]) * step[0] + (down - start[1]) * step[1]) / max(step @ step, 1e-6), 0, 1)
    distance = np.hypot(across - start[0] - along * step[0], down - start[1] - along * step[1]) - width
    cover = np.clip(0.5 - distance, 0, 1) * opacity
    window += cover[..., None] * (colour - window)

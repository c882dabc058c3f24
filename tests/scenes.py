"""Small pictures for tests that run the proposals on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw_scenes(
    count: int, size: tuple[int, int] = (150, 120), ellipse: tuple[int, int] = (55, 50)
) -> Iterator[Image.Image]:
    """Yield pictures of three ellipses on noise, the same in every run: enough for selective search.

    Args:
        count: how many.
        size: width and height of the pictures, in pixels.
        ellipse: width and height of the ellipses; they lie inside, at least some pixels from the right and below.
    """
    width, height = size
    for number in range(count):
        generator = np.random.default_rng(number)
        image = Image.fromarray(generator.integers(60, 100, (height, width, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(3):
            x = generator.integers(0, width - ellipse[0] - 5)
            y = generator.integers(0, height - ellipse[1] - 10)
            draw.ellipse((x, y, x + ellipse[0], y + ellipse[1]), fill=tuple(generator.integers(0, 255, 3).tolist()))
        yield image


def write_scenes(
    folder: Path, count: int, size: tuple[int, int] = (150, 120), ellipse: tuple[int, int] = (55, 50)
) -> None:
    """Write scenes as ``00.png``, ``01.png`` and so on; the arguments are those of :func:`draw_scenes`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(draw_scenes(count, size, ellipse)):
        image.save(folder / f"{number:02d}.png")

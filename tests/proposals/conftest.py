from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from soco_core.config import Recipe
from soco_core.recipes import parse_recipe

Scene = Callable[[int, int, int], npt.NDArray[np.uint8]]


def draw_scene(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Textured rectangles on a textured ground: something to find for selective search."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(40, 216, 3), np.int64)
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 6 + 1, width // 2 + 2), rng.integers(height // 6 + 1, height // 2 + 2)
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of `count` scenes and return it."""

    def make(count: int, width: int = 72, height: int = 54) -> Path:
        folder = tmp_path / "images"
        for k in range(count):
            path = folder / f"{k % 3}" / f"{k:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_scene(k, width, height)).save(path)
        return folder

    return make


@pytest.fixture
def recipe() -> Recipe:
    """The paper's parameters, in this process."""
    return parse_recipe("runtime: {workers: 0}")


@pytest.fixture
def scene() -> Scene:
    """Draw a scene: (seed, width, height) -> uint8 RGB [height, width, 3]."""
    return draw_scene

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core.config import Recipe
from soco_core.recipes import parse_recipe

TINY = """
model: {backbone: resnet18}
linear:
  learning_rates: [30.0, 3.0]
  epochs: 4
  batch_size: 4
  image_size: 32
  resize: 40
  knn_neighbours: 3
runtime: {device: cpu, workers: 0, checkpoint_steps: 3}
"""


def write_classes(root: Path, train: int = 4, val: int = 2, classes: int = 3) -> str:
    """Noisy pictures, their hue the class: ``train/class-0/0.png`` and so on; return the root."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for label in range(classes):
            folder = root / split / f"class-{label}"
            folder.mkdir(parents=True)
            colour = np.array(colorsys.hsv_to_rgb(label / classes, 0.9, 0.8)) * 255
            for number in range(count):
                generator = np.random.default_rng([label, first + number])
                noise = generator.normal(0, 40, (int(generator.integers(40, 60)), 50, 3))
                pixels = (colour * generator.uniform(0.7, 1.1) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(root)


@pytest.fixture(scope="session")
def classes_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four training and two validation images of each of three classes; it is not to be changed."""
    return write_classes(tmp_path_factory.mktemp("labelled"))


@pytest.fixture
def tiny() -> Recipe:
    return parse_recipe(TINY)

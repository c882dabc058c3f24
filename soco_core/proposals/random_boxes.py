"""Random boxes in place of selective search (4.4, Table 5c)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from soco_core.config import ProposalsConfig
from soco_core.proposals.filters import meets_requirements

ATTEMPTS = 256
"""Boxes drawn for each that is wanted; in an image of 4:3 five of six are good, of 9:1 one of seven."""


class RandomBoxes:
    """The engine that draws ``random_boxes`` boxes in each image, whatever is in it.

    "We randomly generate K bounding boxes in each of the training images to replace the selective search
    proposals" (4.4) leaves the distribution open. Here a box meets the requirements that proposals have to meet
    (3.2): its aspect ratio w/h is log-uniform in [1/r, r], its relative size sqrt(wh)/sqrt(WH) uniform between
    the two bounds, and its place uniform over those where it lies inside the image. Sides and corners are whole
    pixels, and boxes that do not fit, or that rounding takes out of the bounds, are drawn again.

    Which boxes an image gets depends on the seed, its id and its size only; those of a larger ``random_boxes``
    begin with those of a smaller one.

    Args:
        config: ``random_boxes`` and the bounds of the filter.
        seed: seed of the recipe.
    """

    def __init__(self, config: ProposalsConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    def search(self, image_id: str, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the boxes in the order they are drawn; fewer, or none, where next to none can meet the bounds.

        Args:
            image_id: path relative to the image set's root.
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [N, 4], N <= ``random_boxes``: x1 y1 x2 y2 in whole pixels, inside the image.
        """
        config = self.config
        height, width = image.shape[:2]
        words = np.frombuffer(hashlib.sha256(image_id.encode()).digest(), dtype="<u4")
        generator = np.random.default_rng([self.seed, *words.tolist(), width, height])
        # A row of four numbers is a box, so how many are drawn does not change the first.
        shape, size, left, top = generator.random((ATTEMPTS * config.random_boxes, 4)).T
        side = config.min_relative_size + size * (config.max_relative_size - config.min_relative_size)
        side *= np.sqrt(float(width) * height)
        stretch = np.sqrt(config.max_aspect_ratio) ** (2 * shape - 1)
        w, h = np.rint(side * stretch), np.rint(side / stretch)
        x, y = np.floor(left * (width - w + 1)), np.floor(top * (height - h + 1))
        boxes = np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)
        good = (w <= width) & (h <= height) & meets_requirements(boxes, width, height, config)
        return boxes[good][: config.random_boxes]

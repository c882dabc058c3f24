"""Which images a step trains on: shuffled epochs, like shapes together, rare categories repeated (LVIS)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from soco_core.datasets.split import LabelledSplit, usable


def image_batches(
    split: LabelledSplit,
    trainable: list[int],
    batch_size: int,
    seed: int,
    repeat_threshold: float = 0.0,
    masks: bool = False,
) -> Iterator[list[int]]:
    """Yield batches of positions in the split without end; a pure function of its arguments.

    Landscape and portrait images do not mix, which saves padding (detectron2).

    Args:
        split: what is trained on.
        trainable: positions of its images that have something to learn.
        batch_size: images in a step, over all processes.
        seed: of the order.
        repeat_threshold: share of the images below which a category's images are repeated; 0: none is.
        masks: whether objects without a mask count for nothing, as in `trainable`.
    """
    factors = repeat_factors(split, trainable, repeat_threshold, masks) if repeat_threshold else None
    waiting: dict[bool, list[int]] = {False: [], True: []}
    epoch = 0
    while True:
        generator = np.random.default_rng((seed, epoch))
        places = np.arange(len(trainable))
        if factors is not None:
            places = np.repeat(places, _rounded(factors, generator))
        for place in generator.permutation(places):
            position = trainable[place]
            image = split.images[position]
            group = waiting[image["width"] > image["height"]]
            group.append(position)
            if len(group) == batch_size:
                yield group.copy()
                group.clear()
        epoch += 1


def repeat_factors(
    split: LabelledSplit, trainable: list[int], threshold: float, masks: bool = False
) -> NDArray[np.float64]:
    """Return how often each trainable image is seen in an epoch on average, [images], at least 1.

    A category that a share f of the images has gets max(1, sqrt(threshold / f)); an image gets the largest factor of
    its categories (Gupta et al., LVIS, 2019; detectron2's ``RepeatFactorTrainingSampler``).
    """
    held = [
        {item["category_id"] for item in split.annotations_of[split.images[position]["id"]] if usable(item, masks)}
        for position in trainable
    ]
    images_with = Counter(category for categories in held for category in categories)
    factor = {
        category: max(1.0, math.sqrt(threshold * len(trainable) / count)) for category, count in images_with.items()
    }
    return np.array([max(factor[category] for category in categories) for categories in held])


def _rounded(factors: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Round up with the probability of the fraction, so that the factors hold on average over the epochs."""
    whole = np.floor(factors)
    up: NDArray[np.bool_] = generator.random(len(factors)) < factors - whole
    return (whole + up).astype(np.int64)

"""Views through the data loader: the number of workers changes nothing, and no two draw the same."""

from __future__ import annotations

import io
import itertools
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from soco_core.artifacts.proposals import Proposals
from soco_core.config import Recipe, ViewsConfig
from soco_core.images import ImageSource
from soco_core.pretrain.data import EpochBatches, ViewDataset, view_loader
from soco_core.views.construct import View

IMAGES, BATCH = 8, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "star": {"fourth_view": True, "fourth_size": 48},
    "c4": {"third_view": "none"},
    "authors": {
        "crop_source": "image",
        "third_view": "crop",
        "draw": "per-pair",
        "jitter_views": "first",
        "cutout_probability": 0.5,
    },
}


class SameImages:
    """A set and the proposals of it in which all images are equal: views then differ by their random numbers only."""

    root = "nowhere"

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        self.file = file.getvalue()

    def __len__(self) -> int:
        return IMAGES

    def read_bytes(self, _: str) -> bytes:
        return self.file

    def id(self, number: int) -> str:
        return f"{number}.png"

    def size(self, _: int) -> tuple[int, int]:
        return 80, 60

    def boxes(self, _: int) -> np.ndarray:
        return np.array([[x, y, x + 30, y + 25] for x in range(0, 50, 10) for y in range(0, 35, 10)], np.float32)


def load(workers: int, **fields: Any) -> list[list[View]]:
    """All batches of two epochs."""
    recipe = Recipe(seed=4, views=ViewsConfig(size=64, small_size=32, **fields))
    same = SameImages()
    dataset = ViewDataset(recipe, cast(Proposals, same), cast(ImageSource, same))
    return list(view_loader(dataset, EpochBatches(IMAGES, BATCH, 2, 4, 0), workers, torch.device("cpu")))


def flat(batch: list[View]) -> list[torch.Tensor]:
    return [field for view in batch for field in (*view[:-1], *view.augmentation)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_number_of_workers_changes_nothing(variant: str) -> None:
    alone = load(0, **VARIANTS[variant])
    assert len(alone) == 2 * IMAGES // BATCH
    for batches in (load(1, **VARIANTS[variant]), load(2, **VARIANTS[variant])):
        for one, other in zip(alone, batches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def test_no_two_workers_draw_the_same() -> None:
    """Every image has random numbers of its own; the authors' code repeats a worker's in the next."""
    batches = load(2)
    for number in range(3):
        drawn = torch.cat([batch[number].augmentation.hue for batch in batches]).tolist()
        assert len(set(drawn)) == 2 * IMAGES
    views = [image for batch in batches for image in batch[1].image]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(views, 2))


def test_every_field_gets_a_batch_dimension() -> None:
    [first, second, third, fourth] = load(0, **VARIANTS["authors"], fourth_view=True, fourth_size=48)[0]
    assert first.boxes.shape == (BATCH, 12, 4)
    assert first.ids.shape == (BATCH, 12)
    for view, side in ((second, 64), (third, 32), (fourth, 48)):
        assert view.image.shape == (BATCH, 3, side, side)
        assert view.boxes.shape == view.cutouts.shape == (BATCH, 4, 4)
        assert view.ids.shape == (BATCH, 4)
        assert view.ids.dtype == torch.int64
        assert view.usable.shape == (BATCH,)
        assert view.usable.dtype == torch.bool

"""The crops that an image's views show, and which of its proposals are contrasted in them (paper 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from soco_core.config import ViewsConfig
from soco_core.views.boxes import Boxes, crop_boxes, has_area, resize_boxes
from soco_core.views.random_parameters import Crop, draw_crop

CROP_DRAWS = 5
"""Times that the crops of an image are drawn before the whole view stands in for its proposals (the authors' code)."""

Numbers = npt.NDArray[np.int64]
"""Numbers of proposals among the image's, from 0, int64 [K]."""


class Frame(NamedTuple):
    """How a view other than V1 is made."""

    name: str
    size: int
    """Its side in pixels."""
    crop: int
    """Number of the crop that it shows."""
    downsampled: bool = False
    """Whether it is V2 made smaller: its crop is then V2's."""


def view_frames(config: ViewsConfig) -> list[Frame]:
    """Return the views beside V1: V2, V3 unless there is none, and V4 if there is one."""
    frames = [Frame("V2", config.size, 0)]
    if config.third_view == "downsampled":
        frames.append(Frame("V3", config.small_size, 0, downsampled=True))
    elif config.third_view == "crop":
        frames.append(Frame("V3", config.small_size, 1))
    if config.fourth_view:
        frames.append(Frame("V4", config.fourth_size, frames[-1].crop + 1))
    return frames


class Canvas(NamedTuple):
    """What views are cropped from: V1, or the original image."""

    size: tuple[int, int]
    """width, height in pixels."""
    side: int
    """Side of V1."""

    @property
    def whole(self) -> Crop:
        """All of it: what V1 shows."""
        return 0, 0, *self.size

    def visible(self, boxes: Boxes, crop: Crop) -> npt.NDArray[np.bool_]:
        """Tell of which boxes [N, 4] a crop leaves at least 1 x 1 pixel, in V1's pixels, bool [N]."""
        return has_area(resize_boxes(crop_boxes(boxes, crop), self.size, (self.side, self.side)))


class Selection(NamedTuple):
    """The crops of an image and the objects in them."""

    crops: list[Crop]
    """In pixels of the canvas."""
    chosen: list[Numbers | None]
    """K proposals for each crop (with `shared` the same for all); None: the whole view is the object."""


def select(objects: Boxes, canvas: Canvas, config: ViewsConfig, generator: np.random.Generator) -> Selection:
    """Draw the crops, and K of the proposals that they leave; fewer than K are repeated.

    "Object proposals outside of V2 are dropped" (3.2). With `shared`, a proposal must be in every crop; with
    `per-pair`, in the one that its pair shows beside V1. Where that leaves too few, all crops are drawn again and half
    as many are asked for, as the authors' code does.

    Args:
        objects: the image's proposals in pixels of the canvas, XYXY float32 [N, 4].
        canvas: what is cropped.
        config: which views, ranges, K, and how proposals are drawn.
        generator: the image's.
    """
    count = 1 + max(frame.crop for frame in view_frames(config))
    if config.objects == "whole-image":
        return Selection([draw_crop(config, canvas.size, generator) for _ in range(count)], [None] * count)
    shared, wanted = config.draw == "shared", config.proposals_per_image
    needed = wanted if shared else max(1, wanted // 2)  # the authors begin at half of them
    for _ in range(CROP_DRAWS):
        crops = [draw_crop(config, canvas.size, generator) for _ in range(count)]
        visible = [canvas.visible(objects, crop) for crop in crops]
        pools = [np.flatnonzero(seen) for seen in ([np.logical_and.reduce(visible)] if shared else visible)]
        if min(map(len, pools)) >= needed:
            break
        needed = max(1, needed // 2)
    chosen = [_choose(pool, wanted, generator) for pool in pools]
    return Selection(crops, chosen * count if shared else chosen)


def _choose(pool: Numbers, wanted: int, generator: np.random.Generator) -> Numbers | None:
    if len(pool) == 0:
        return None
    return pool[np.resize(generator.permutation(len(pool))[:wanted], wanted)]

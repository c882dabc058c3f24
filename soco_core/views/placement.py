"""Where the chosen proposals lie in each view, jittered (paper 3.2, "Box Jitter")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from soco_core.config import ViewsConfig
from soco_core.views.boxes import Boxes, crop_boxes, jitter_boxes, resize_boxes
from soco_core.views.random_parameters import Crop, draw_jitter
from soco_core.views.selection import Canvas, Numbers, Selection, view_frames

WHOLE_VIEW = -1
"""The id of a view's whole extent, which is no proposal."""


class Placed(NamedTuple):
    """The objects of one view."""

    boxes: Boxes
    """In pixels of the view, before its flip, XYXY float32 [B, 4]."""
    ids: Numbers
    """Which of the image's proposals each is, or `WHOLE_VIEW`, int64 [B]."""
    usable: bool
    """False if the whole view stands in for lack of a proposal."""


def place_objects(
    objects: Boxes, canvas: Canvas, selection: Selection, config: ViewsConfig, generator: np.random.Generator
) -> list[Placed]:
    """Place the selected proposals in each view: K boxes, and in V1 K for each other view with `per-pair`.

    Each view's copy of a proposal is jittered on its own, before it is cut as the view is, so that a box at the border
    is cut as the image is. A copy that would leave its view stays as it was; and so does one of V1 that would leave
    a crop which it is matched with.

    Args:
        objects: the image's proposals in pixels of the canvas, XYXY float32 [N, 4].
        canvas: what is cropped.
        selection: the crops, and the proposals in them.
        config: jitter, sizes and how proposals were drawn.
        generator: the image's.
    """
    crops, chosen = selection
    frames = view_frames(config)

    def place(numbers: Numbers | None, crop: Crop, size: int, stay_in: Sequence[Crop], jitter: bool) -> Placed:
        count = config.proposals_per_image
        if numbers is None:
            whole = np.tile(np.array([[0, 0, size, size]], np.float32), (count, 1))
            return Placed(whole, np.full(count, WHOLE_VIEW), config.objects == "whole-image")
        copies = objects[numbers]
        if jitter:
            jittered = jitter_boxes(copies, draw_jitter(config, count, generator))
            stays = np.logical_and.reduce([canvas.visible(jittered, other) for other in stay_in])
            copies = np.where(stays[:, None], jittered, copies)
        return Placed(resize_boxes(crop_boxes(copies, crop), crop[2:], (size, size)), numbers, True)

    if config.draw == "shared":
        first = place(chosen[0], canvas.whole, config.size, crops, True)
    else:
        # A downsampled V3 has V2's block, as the authors' SoCo* has: the two views show the same.
        blocks = [place(chosen[i], canvas.whole, config.size, [crop], True) for i, crop in enumerate(crops)]
        pairs = [blocks[frame.crop] for frame in frames]
        first = Placed(
            np.concatenate([block.boxes for block in pairs]),
            np.concatenate([block.ids for block in pairs]),
            any(block.usable for block in pairs),
        )
    others = []
    for frame in frames:
        crop = crops[frame.crop]
        others.append(place(chosen[frame.crop], crop, frame.size, [crop], config.jitter_views == "all"))
    return [first, *others]

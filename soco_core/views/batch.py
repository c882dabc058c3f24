"""From a batch of views, as a data loader brings it, to what the networks see."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from soco_core.models.soco import ViewBatch
from soco_core.views.augment import augment, cut_out
from soco_core.views.construct import View


def prepare_views(batch: Sequence[View], device: torch.device) -> list[ViewBatch]:
    """Bring a batch of views to the device and augment it there.

    Args:
        batch: the views V1, V2 ... of N images, each field with a batch dimension in front, on the CPU.
        device: where the networks are.

    Returns:
        For each view its images (normalised float32 [N, 3, S, S], channels last) and ids [N, B] on the device, and
        its boxes [N, B, 4] on the CPU.
    """
    ready = []
    for view in batch:
        images = augment(view.image.to(device, non_blocking=True), view.augmentation)
        if bool((view.cutouts[..., 2:] > view.cutouts[..., :2]).any()):  # asked on the CPU, where it waits for nothing
            images = cut_out(images, view.cutouts)
        ready.append(
            ViewBatch(
                images.contiguous(memory_format=torch.channels_last),
                view.boxes,
                view.ids.to(device, non_blocking=True),
            )
        )
    return ready

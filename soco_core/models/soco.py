"""The online and the target network (paper 3.3, equations 1 to 4)."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from soco_core.config import ModelConfig
from soco_core.models.backbone import FeatureExtractor
from soco_core.models.heads import BoxHead, mlp
from soco_core.models.regions import assign_levels, pool_regions


class ViewBatch(NamedTuple):
    """One view of every image of a batch, ready for a network."""

    images: Tensor
    """Normalised RGB, float [N, 3, S, S]."""
    boxes: Tensor
    """Proposals in the view's pixels, XYXY float32 [N, B, 4], on the CPU, where their levels are looked up. B is K, or
    in V1 (views - 1) * K where each pair of views has proposals of its own: block j belongs to V1 and V(j+2)."""
    ids: Tensor
    """Numbers of the proposals among an image's, int64 [N, B], with the images: equal ones are the same object in all
    views."""


class ObjectEncoder(FeatureExtractor):
    """Backbone, FPN, head and projector: what both networks share (equations 1 and 4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.config = config
        self.head: BoxHead | None = None
        width = self.channels
        if config.architecture == "c4":
            width = self.encoder.out_channels[-1]
        elif config.use_head:
            self.head = BoxHead(config)
            width = config.head_fc_size
        self.projector = mlp(width, config.hidden_size, config.embedding_size)

    def forward(self, views: list[ViewBatch]) -> list[Tensor]:
        """Embed the boxes of all views, float [N, B, D] for each view.

        Each view passes the backbone on its own (their sizes differ, and so do their batch statistics); the
        regions of all views pass the head in one call, unless `head_calls` says otherwise. With
        `head_levels` "all" every box passes it at each level, and its own level's embedding is returned.
        """
        regions = [pooled for view in views for pooled in self.pool(view)]
        if self.config.head_calls == "joint":
            embedded = list(self.embed(torch.cat(regions)).split([len(pooled) for pooled in regions]))
        else:
            embedded = [self.embed(pooled) for pooled in regions]
        each = len(regions) // len(views)
        return [self._own(embedded[j * each : (j + 1) * each], view) for j, view in enumerate(views)]

    def pool(self, view: ViewBatch) -> list[Tensor]:
        """Pool the boxes of a view at their own level: [[N * B, C, roi_size, roi_size]].

        With `head_levels` "all" the list has such an entry for each level.
        """
        maps, size = self.features(view.images), self.config.roi_size
        if self.config.head_levels == "own":
            return [pool_regions(maps, view.boxes, self._levels(view), size, self.strides)]
        first = torch.zeros(view.boxes.shape[:2], dtype=torch.int64)
        return [
            pool_regions([features], view.boxes, first, size, [stride])
            for features, stride in zip(maps, self.strides, strict=True)
        ]

    def represent(self, regions: Tensor) -> Tensor:
        """h = f^H of pooled regions [R, C, roi_size, roi_size], float [R, width] (equation 1).

        f^H is the box head, the fifth residual block and an average (C4), or an average alone (without head).
        """
        if self.head is not None:
            return self.head(regions)
        if self.config.architecture == "c4":
            regions = self.encoder.layer4(regions)
        return regions.mean(dim=(2, 3))

    def embed(self, regions: Tensor) -> Tensor:
        """v' = g(h) of pooled regions, float [R, D] (equation 4)."""
        return self.projector(self.represent(regions))

    def _levels(self, view: ViewBatch) -> Tensor:
        if len(self.strides) == 1:
            return torch.zeros(view.boxes.shape[:2], dtype=torch.int64)
        return assign_levels(view.boxes, self.config.level_limits)

    def _own(self, embedded: list[Tensor], view: ViewBatch) -> Tensor:
        """Pick each box's own of its embeddings ([N * B, D] for each level pooled): [N, B, D]."""
        if len(embedded) == 1:
            return embedded[0].unflatten(0, view.ids.shape)
        levels = self._levels(view).flatten().to(view.ids.device, non_blocking=True)
        return torch.stack(embedded)[levels, torch.arange(len(levels), device=levels.device)].unflatten(
            0, view.ids.shape
        )


class OnlineNetwork(ObjectEncoder):
    """The online network: an object encoder and the predictor q."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.predictor = mlp(config.embedding_size, config.hidden_size, config.embedding_size)

    def embed(self, regions: Tensor) -> Tensor:
        """v = q(g(h)) of pooled regions, float [R, D] (equation 4)."""
        return self.predictor(super().embed(regions))


class SoCo(nn.Module):
    """The pair: the online network learns, the target network follows it as an exponential moving average."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.online = OnlineNetwork(config)
        self.target = ObjectEncoder(config)
        self.target.load_state_dict(copy.deepcopy(_without_predictor(self.online)))
        self.target.requires_grad_(False)

    def forward(self, views: list[ViewBatch]) -> tuple[list[Tensor], list[Tensor]]:
        """Return online predictions v and target projections v', each float [N, B, D] for each view."""
        with torch.no_grad():
            targets = self.target(views)
        return self.online(views), targets

    @torch.no_grad()
    def update_target(self, coefficient: float) -> None:
        """Move the target: xi <- tau * xi + (1 - tau) * theta. Parameters only, not batch-norm statistics."""
        online = dict(self.online.named_parameters())
        names, targets = zip(*self.target.named_parameters(), strict=True)
        torch._foreach_lerp_(list(targets), [online[name] for name in names], 1.0 - coefficient)


def _without_predictor(online: OnlineNetwork) -> dict[str, Tensor]:
    return {key: value for key, value in online.state_dict().items() if not key.startswith("predictor.")}

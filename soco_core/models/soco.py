"""The online and the target network (paper 3.3, equations 1 to 4)."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from soco_core.config import ModelConfig
from soco_core.models.backbone import PyramidExtractor
from soco_core.models.heads import BoxHead, mlp
from soco_core.models.regions import assign_levels, pool_regions


class ViewBatch(NamedTuple):
    """One view of every image of a batch, ready for a network."""

    images: Tensor
    """Normalised RGB, float [N, 3, S, S]."""
    boxes: Tensor
    """Proposals in the view's pixels, XYXY float32 [N, K, 4]; box i of an image is box i in each view."""


class ObjectEncoder(PyramidExtractor):
    """Backbone, FPN, box head and projector: what both networks share (equations 1 and 4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.config = config
        self.head = BoxHead(config)
        self.projector = mlp(config.head_fc_size, config.hidden_size, config.embedding_size)

    def represent(self, view: ViewBatch) -> Tensor:
        """Pool the proposals of one view: [N * K, C, roi_size, roi_size]."""
        levels = assign_levels(view.boxes, self.config.level_limits)
        return pool_regions(super().forward(view.images), view.boxes, levels, self.config.roi_size)

    def project(self, views: list[ViewBatch]) -> Tensor:
        """Embed the proposals of all views: g(f^H(RoIAlign(f^I(V), b))), float [len(views), N, K, D].

        Each view passes the backbone on its own (their sizes differ, and so do their batch statistics);
        the regions of all views pass the head in one call.
        """
        count, proposals = views[0].boxes.shape[:2]
        regions = torch.cat([self.represent(view) for view in views])
        return self.projector(self.head(regions)).unflatten(0, (len(views), count, proposals))


class OnlineNetwork(ObjectEncoder):
    """The online network: an object encoder and the predictor q."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.predictor = mlp(config.embedding_size, config.hidden_size, config.embedding_size)

    def predict(self, views: list[ViewBatch]) -> Tensor:
        """v = q(g(h)) of every proposal in every view, float [len(views), N, K, D] (equation 4)."""
        projected = self.project(views)
        return self.predictor(projected.flatten(0, 2)).unflatten(0, projected.shape[:3])


class SoCo(nn.Module):
    """The pair: the online network learns, the target network follows it as an exponential moving average."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.online = OnlineNetwork(config)
        self.target = ObjectEncoder(config)
        self.target.load_state_dict(copy.deepcopy(_without_predictor(self.online)))
        self.target.requires_grad_(False)

    def forward(self, views: list[ViewBatch]) -> tuple[Tensor, Tensor]:
        """Return (online predictions v, target projections v'), each float [len(views), N, K, D]."""
        with torch.no_grad():
            targets = self.target.project(views)
        return self.online.predict(views), targets

    @torch.no_grad()
    def update_target(self, coefficient: float) -> None:
        """Move the target: xi <- tau * xi + (1 - tau) * theta. Parameters only, not batch-norm statistics."""
        online = dict(self.online.named_parameters())
        names, targets = zip(*self.target.named_parameters(), strict=True)
        torch._foreach_lerp_(list(targets), [online[name] for name in names], 1.0 - coefficient)


def _without_predictor(online: OnlineNetwork) -> dict[str, Tensor]:
    return {key: value for key, value in online.state_dict().items() if not key.startswith("predictor.")}

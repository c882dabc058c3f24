"""Nearest neighbours in the backbone's features, found in one stream: a bank of them is never held.

Each query's best so far are kept; a batch of training images is compared with all queries and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES_AT_ONCE = 8192
VOTERS_AT_ONCE = 1024


class Neighbours:
    """The nearest training images of each query so far.

    Args:
        queries: their features, float32 [Q, D]; compared by the cosine.
        count: neighbours of each that are kept.
    """

    def __init__(self, queries: Tensor, count: int) -> None:
        self.queries = F.normalize(queries, dim=1)
        self.similarities = torch.full((len(queries), count), -torch.inf, device=queries.device)
        """Cosines, falling, float32 [Q, count]; -inf where fewer were seen."""
        self.labels = torch.zeros((len(queries), count), dtype=torch.int64, device=queries.device)
        """Labels of the neighbours, int64 [Q, count]."""

    def see(self, features: Tensor, labels: Tensor) -> None:
        """Compare a batch of training images, float32 [N, D], with labels int64 [N], with all queries."""
        features = F.normalize(features, dim=1)
        for first in range(0, len(self.queries), QUERIES_AT_ONCE):
            part = slice(first, first + QUERIES_AT_ONCE)
            found = self.queries[part] @ features.T
            self._keep(part, found, labels.expand_as(found))

    def merge(self, others: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take in what others found for the same queries: their `similarities` and `labels`."""
        for similarities, labels in others:
            device = self.queries.device
            self._keep(slice(None), similarities.to(device), labels.to(device))

    def vote(self, classes: int, temperature: float) -> Tensor:
        """Return the class with the most votes of each query, int64 [Q]; a vote weighs exp(cosine / temperature)."""
        chosen = []
        for first in range(0, len(self.queries), VOTERS_AT_ONCE):
            part = slice(first, first + VOTERS_AT_ONCE)
            # Taken from the nearest one's, the weights cannot overflow; -inf has none.
            weights = ((self.similarities[part] - self.similarities[part, :1]) / temperature).exp()
            votes = weights.new_zeros(len(weights), classes).scatter_add_(1, self.labels[part], weights)
            chosen.append(votes.argmax(1))
        return torch.cat(chosen)

    def _keep(self, part: slice, similarities: Tensor, labels: Tensor) -> None:
        count = self.similarities.shape[1]
        together = torch.cat([self.similarities[part], similarities], 1)
        self.similarities[part], places = together.topk(count, dim=1)
        self.labels[part] = torch.cat([self.labels[part], labels], 1).gather(1, places)

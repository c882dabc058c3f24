"""The symmetric object-level contrastive loss (paper 3.3, equations 5 and 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def directional_loss(online: Tensor, target: Tensor) -> Tensor:
    """One term of equation 5, averaged over an image's proposals (equation 6) and over images.

    Args:
        online: predictions v, float [N, K, D].
        target: projections v' of the same proposals in another view, float [N, K, D]; no gradient.

    Returns:
        -2 x the mean cosine similarity, in [-2, 2].
    """
    return -2.0 * F.cosine_similarity(online, target.detach(), dim=-1).mean()


def soco_loss(online: Tensor, target: Tensor) -> dict[str, Tensor]:
    """L^SoCo = L + its symmetric counterpart, term by term.

    Args:
        online: predictions of the online network, float [views, N, K, D]; view 0 is V1.
        target: projections of the target network, the same shape.

    Returns:
        ``1_to_j`` (V1 online, Vj target) and ``j_to_1`` for every other view j, each in [-2, 2], and their
        sum ``loss``: at least -4 per view beyond the first, so -8 with V1, V2, V3.
    """
    terms = {}
    for j in range(1, len(online)):
        terms[f"1_to_{j + 1}"] = directional_loss(online[0], target[j])
        terms[f"{j + 1}_to_1"] = directional_loss(online[j], target[0])
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def embedding_spread(embeddings: Tensor) -> Tensor:
    """Tell how far embeddings are from collapsing.

    Args:
        embeddings: float [..., D].

    Returns:
        The standard deviation over all embeddings of the L2-normalised components, averaged over
        components and multiplied by sqrt(D): 0 when all are equal, about 1 when they are spread evenly
        over the sphere.
    """
    unit = F.normalize(embeddings.detach().flatten(0, -2).float(), dim=-1)
    return unit.std(dim=0, unbiased=False).mean() * unit.shape[-1] ** 0.5

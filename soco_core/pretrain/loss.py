"""The symmetric object-level contrastive loss (paper 3.3, equations 5 and 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def directional_loss(online: Tensor, target: Tensor, matches: Tensor) -> Tensor:
    """One term of equation 5, averaged over an image's matching boxes (equation 6) and over images.

    Args:
        online: predictions v, float [N, A, D].
        target: projections v' in another view, float [N, B, D]; no gradient.
        matches: which boxes show the same proposal, bool [N, A, B]. Where an image has K proposals these are
            K pairs; repeated boxes make more. An image without any counts as 0.

    Returns:
        -2 x the mean cosine similarity, in [-2, 2]; float32 for half precision.
    """
    online, target = (x if x.dtype == torch.float64 else x.float() for x in (online, target.detach()))
    cosines = F.cosine_similarity(online[:, :, None], target[:, None], dim=-1)
    sums = torch.where(matches, cosines, 0.0).sum(dim=(1, 2))
    return -2.0 * (sums / matches.sum(dim=(1, 2)).clamp(min=1)).mean()


def soco_loss(online: list[Tensor], target: list[Tensor], ids: list[Tensor]) -> dict[str, Tensor]:
    """L^SoCo = L + its symmetric counterpart, term by term.

    Args:
        online: predictions of the online network, float [N, B, D] for each view, V1 first.
        target: projections of the target network, of the same shapes.
        ids: numbers of the boxes' proposals, int64 [N, B] for each view; equal ones of an image match. V1 may
            have (views - 1) blocks of as many boxes as the others: block j belongs to the pair (V1, V(j+2)).

    Returns:
        ``1_to_j`` (V1 online, Vj target) and ``j_to_1`` for every other view j, each in [-2, 2], and their
        sum ``loss``: at least -4 per view beyond the first, so -4 with two views, -8 with three, -12 with four.
    """
    terms = {}
    for j in range(1, len(online)):
        count = ids[j].shape[1]
        if ids[0].shape[1] not in {count, count * (len(ids) - 1)}:
            raise ValueError(f"V1 has {ids[0].shape[1]} boxes, V{j + 1} {count}: neither the same nor a block a pair")
        own = slice(None) if ids[0].shape[1] == count else slice((j - 1) * count, j * count)
        matches = ids[0][:, own, None] == ids[j][:, None]
        terms[f"1_to_{j + 1}"] = directional_loss(online[0][:, own], target[j], matches)
        terms[f"{j + 1}_to_1"] = directional_loss(online[j], target[0][:, own], matches.mT)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}

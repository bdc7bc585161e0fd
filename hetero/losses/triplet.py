"""Asymmetric triplets: among gallery embeddings, a query embedding is nearer to its own class than to any other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetero.losses.unit import unit


def triplet_loss(
    query: Float[Tensor, "b d"], gallery: Float[Tensor, "b d"], labels: Int[Tensor, " b"], *, margin: float
) -> Float[Tensor, ""]:
    """``max(0, s(a, n) − s(a, p) + margin)``, mean over the triplets that violate the margin; 0 without any.

    ``a`` is a query embedding, ``p`` and ``n`` gallery embeddings of its and of another class in the batch, ``s`` the
    cosine; a picture's own gallery embedding is among its ``p``. No gradient reaches the gallery embeddings.

    Source: Budnik and Avrithis, Asymmetric metric learning for knowledge transfer, CVPR 2021, triplet loss; averaged as
    in Hermans et al., In defense of the triplet loss, 2017 (non-zero mean).
    """
    cosines = unit(query) @ unit(gallery.detach()).T
    same = labels[:, None] == labels[None, :]
    anchor, positive = torch.nonzero(same, as_tuple=True)
    others = cosines.masked_fill(same, -torch.inf)  # what is no negative can never exceed
    excess = (others[anchor] - cosines[anchor, positive][:, None] + margin).relu()
    return excess.sum() / excess.detach().count_nonzero().clamp(min=1)

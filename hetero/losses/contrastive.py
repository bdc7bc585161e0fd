"""Asymmetric pairs: among gallery embeddings, a query embedding is pulled to its class and pushed off others."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from hetero.losses.unit import unit


def contrastive_loss(
    query: Float[Tensor, "b d"], gallery: Float[Tensor, "b d"], labels: Int[Tensor, " b"], *, margin: float
) -> Float[Tensor, ""]:
    """Mean of ``1 − s`` over pairs of one class plus mean of ``s − margin`` over pairs of two that exceed it; 0..4.

    ``s = cos(φ_q(x_i), φ_g(x_j))`` for all i and j of the batch, a picture and itself among the pairs of one class. The
    second mean is over the pairs with ``s > margin``, as pytorch-metric-learning reduces it, 0 without any: the many
    pairs that are far apart already would drown the few that are not. No gradient reaches the gallery embeddings.

    Source: Budnik and Avrithis, Asymmetric metric learning for knowledge transfer, CVPR 2021, contrastive loss;
    Hadsell et al., Dimensionality reduction by learning an invariant mapping, CVPR 2006.
    """
    cosines = unit(query) @ unit(gallery.detach()).T
    same = (labels[:, None] == labels[None, :]).to(cosines.dtype)
    excess = (cosines - margin).relu() * (1 - same)
    exceeding = excess.detach().count_nonzero().clamp(min=1)
    # One row sum each instead of picked pairs: nothing is gathered, so nothing is scattered on the way back.
    return 1 - (cosines * same).sum() / same.sum() + excess.sum() / exceeding

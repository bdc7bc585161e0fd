"""Decoupled differential distillation: differences of similarities, those in the wrong order weighed on their own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hetero.losses.contextual import nearest_candidates, query_cosines

_SOFTENING = 0.1  # of the published implementation: keeps near-ties from dominating a relative error


def decoupled_loss(
    query: Float[Tensor, "b d"],
    gallery: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    *,
    neighbours: int,
    feature: float,
    inconsistent: float,
    consistent: float,
) -> Float[Tensor, ""]:
    """Three weighted parts, mean over the batch: the picture itself, pairs in the wrong order, pairs in the right one.

    With ``s^g`` and ``s^q`` the cosines of the gallery and the query embedding to the k candidates nearest to the
    former, ``Δ_ij = s_j − s_i`` and ``r_ij = (Δ^q_ij − Δ^g_ij) / (0.1 + |Δ^g_ij|)``:

    - feature: ``1 − cos(φ_q(x), φ_g(x))``,
    - inconsistent: ``‖r‖₂ / k`` over the pairs with ``Δ^q Δ^g < 0``,
    - consistent: ``‖r‖₂ / k`` over the pairs with ``Δ^q Δ^g > 0``.

    Needs no labels. No gradient reaches gallery embeddings or candidates.

    Source: Xie et al., D3still: Decoupled differential distillation for asymmetric image retrieval, CVPR 2024; the
    feature part there is the Euclidean norm of the batch's differences, here their mean, and the nearest neighbour,
    there the picture itself, is left out.
    """
    known, rows = nearest_candidates(gallery, candidates, neighbours=neighbours)
    seen = query_cosines(query, candidates, rows)
    first, second = torch.triu_indices(known.shape[1], known.shape[1], 1, device=known.device)
    wanted = known[:, second] - known[:, first]
    found = seen[:, second] - seen[:, first]
    relative = ((found - wanted) / (_SOFTENING + wanted.abs())).square()
    agreement = found.detach() * wanted
    wrong = _length(torch.where(agreement < 0, relative, 0.0))
    right = _length(torch.where(agreement > 0, relative, 0.0))
    own = (1 - cosine_similarity(query, gallery.detach())).mean()
    return feature * own + (inconsistent * wrong + consistent * right) / known.shape[1]


def _length(squares: Float[Tensor, "b p"]) -> Float[Tensor, ""]:
    """Mean Euclidean norm over pairs in both orders, given in one of them: swapped, both differences change sign.

    Without pairs 0, with gradient 0 (a bare root's would be infinite).
    """
    sums = 2 * squares.sum(1)
    positive = sums > 0
    return torch.where(positive, torch.where(positive, sums, 1.0).sqrt(), 0.0).mean()

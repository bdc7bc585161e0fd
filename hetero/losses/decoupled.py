"""Decoupled differential distillation: differences of similarities, those in the wrong order weighed on their own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hetero.losses.contextual import Nearest, nearest_candidates, query_cosines
from hetero.losses.unit import SHORTEST

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
    nearest: Nearest | None = None,
) -> Float[Tensor, ""]:
    """Three weighted parts, mean over the batch: the picture itself, pairs in the wrong order, pairs in the right one.

    With ``s^g`` and ``s^q`` the cosines of the gallery and the query embedding to the k candidates nearest to the
    former, ``Δ_ij = s_j − s_i`` and ``r_ij = (Δ^q_ij − Δ^g_ij) / (0.1 + |Δ^g_ij|)``:

    - feature: ``1 − cos(φ_q(x), φ_g(x))``,
    - inconsistent: ``‖r‖₂ / k`` over the pairs with ``Δ^q Δ^g < 0``,
    - consistent: ``‖r‖₂ / k`` over the pairs with ``Δ^q Δ^g > 0``.

    Needs no labels. No gradient reaches gallery embeddings or candidates. ``nearest``: see
    :func:`hetero.losses.contextual.contextual_loss`.

    Source: Xie et al., D3still: Decoupled differential distillation for asymmetric image retrieval, CVPR 2024; the
    feature part of its published code is the Euclidean norm of all the batch's differences over the batch's size, which
    shrinks with the root of that size, and here the mean of 1 − cos, which does not: its weights are not the paper's.
    The nearest neighbour, there the picture itself, is left out: here it is among the candidates only where those are
    the batch.
    """
    known, rows = nearest or nearest_candidates(gallery, candidates, neighbours=neighbours)
    seen = query_cosines(query, candidates, rows)
    wanted = known[:, None, :] - known[:, :, None]
    found = seen[:, None, :] - seen[:, :, None]
    with torch.no_grad():
        scale = (_SOFTENING + wanted.abs()).reciprocal().square()
        agreement = found * wanted
        weights = torch.stack((scale * (agreement < 0), scale * (agreement > 0)), 1).flatten(2)
    squares = (found - wanted).square().flatten(1)
    wrong, right = _root(torch.bmm(weights, squares[:, :, None])[:, :, 0]).mean(0)
    own = (1 - cosine_similarity(query, gallery.detach(), eps=SHORTEST)).mean()
    return feature * own + (inconsistent * wrong + consistent * right) / known.shape[1]


def _root(sums: Float[Tensor, "b 2"]) -> Float[Tensor, "b 2"]:
    """Square roots; that of 0, where there is no pair, with gradient 0 (a bare root's would be infinite)."""
    positive = sums > 0
    return torch.where(positive, torch.where(positive, sums, 1.0).sqrt(), 0.0)

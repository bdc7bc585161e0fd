"""Rank preservation: the order of a picture's neighbours in the gallery, without asking for their distances."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from hetero.losses.contextual import Nearest, nearest_candidates, query_cosines


def ranking_loss(
    query: Float[Tensor, "b d"],
    gallery: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    *,
    neighbours: int,
    temperature: float,
    nearest: Nearest | None = None,
) -> Float[Tensor, ""]:
    """Mean squared difference of "j is ahead of i" between the two models, over a picture's k nearest candidates; 0..1.

    The gallery model says 1 where candidate j is more similar than i, ½ where it is as similar, 0 where it is less; the
    query model ``σ((s_j − s_i) / temperature)`` with ``s`` its cosines to the same gallery embeddings. A rank is a row
    sum of that, so equal tables are equal orders, and any monotonic change of the similarities is allowed. Needs no
    labels. No gradient reaches gallery embeddings or candidates. ``nearest``: see
    :func:`hetero.losses.contextual.contextual_loss`.

    Source: Wu et al., A general rank preserving framework for asymmetric image retrieval, ICLR 2023, rank order
    preservation, with both sides of the comparison from the query model and without weights of the places.
    """
    known, rows = nearest or nearest_candidates(gallery, candidates, neighbours=neighbours)
    seen = query_cosines(query, candidates, rows)
    ahead = ((known[:, None, :] - known[:, :, None]).sign() + 1) / 2
    guessed = ((seen[:, None, :] - seen[:, :, None]) / temperature).sigmoid()
    return (guessed - ahead).square().mean()

"""Contextual similarity: a query embedding sees its neighbours in the gallery as the gallery model sees them."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div

from hetero.losses.unit import unit

Nearest = tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]
"""What :func:`nearest_candidates` returns."""


def nearest_candidates(gallery: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"], *, neighbours: int) -> Nearest:
    """Cosines and rows of each gallery embedding's nearest candidates, best first; all of them where there are fewer.

    Both sides are L2-normalised here; no gradient flows.
    """
    cosines = candidate_cosines(gallery.detach(), candidates)
    values, rows = cosines.topk(min(neighbours, cosines.shape[1]), dim=1)
    return values, rows


def query_cosines(
    query: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"], rows: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """Cosine of each query embedding to its candidates ``rows``; gradients flow to the query embeddings."""
    return candidate_cosines(query, candidates).gather(1, rows)


def candidate_cosines(embedding: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    """Cosine of each embedding to each candidate; gradients flow to the embeddings alone."""
    return unit(embedding) @ unit(candidates.detach()).T


def contextual_loss(
    query: Float[Tensor, "b d"],
    gallery: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    *,
    neighbours: int,
    query_temperature: float,
    gallery_temperature: float,
    nearest: Nearest | None = None,
) -> Float[Tensor, ""]:
    """``KL(p_g ‖ p_q)`` in nats, mean over the batch, of how similar a picture is to its neighbours in the gallery.

    The neighbours are the candidates nearest to the picture's gallery embedding; ``p_g`` is the softmax of its cosines
    to them over ``gallery_temperature``, ``p_q`` that of its query embedding's over ``query_temperature``. Needs no
    labels. No gradient reaches gallery embeddings or candidates.

    Args:
        candidates: gallery embeddings of any pictures: a bank of the training pictures', or the batch's own.
        nearest: of :func:`nearest_candidates`, where somebody has found them already.

    Source: Wu et al., Contextual similarity distillation for asymmetric image retrieval, CVPR 2022.
    """
    if neighbours < len(candidates):
        known, rows = nearest or nearest_candidates(gallery, candidates, neighbours=neighbours)
        seen = query_cosines(query, candidates, rows)
    else:  # all of them: which are nearest makes no difference, and to find out costs more than the rest
        known, seen = candidate_cosines(gallery.detach(), candidates), candidate_cosines(query, candidates)
    return kl_div(
        (seen / query_temperature).log_softmax(1), (known / gallery_temperature).softmax(1), reduction="batchmean"
    )

"""Structure similarity: a query embedding is placed among a product quantiser's anchors as the gallery embedding is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div

from hetero.losses.unit import unit

_ROUNDS = 20  # of k-means; the assignment hardly changes after ten


def structure_loss(
    query: Float[Tensor, "b d"],
    gallery: Float[Tensor, "b d"],
    anchors: Float[Tensor, "m k e"],
    *,
    query_temperature: float,
    gallery_temperature: float,
) -> Float[Tensor, ""]:
    """``KL(p_g ‖ p_q)`` in nats, mean over the batch and the m parts, of a part's similarities to its k anchors.

    The unit embeddings are cut into m parts of e = d/m numbers; ``p`` is the softmax of a part's inner products with
    the anchors of that part over the temperature. Needs no labels: pictures that nobody sorted can train a student. No
    gradient reaches gallery embeddings or anchors.

    Args:
        anchors: see :func:`product_anchors`.

    Source: Wu et al., Structure similarity preservation learning for asymmetric image retrieval, IEEE TMM 2023.
    """
    count = anchors.shape[1]
    known = _to_anchors(unit(gallery.detach()), anchors.detach()) / gallery_temperature
    seen = _to_anchors(unit(query), anchors.detach()) / query_temperature
    return kl_div(seen.log_softmax(2).reshape(-1, count), known.softmax(2).reshape(-1, count), reduction="batchmean")


def product_anchors(gallery: Float[Tensor, "n d"], *, parts: int, anchors: int, seed: int) -> Float[Tensor, "m k e"]:
    """The codebooks of a product quantiser: k-means on each of ``parts`` equal parts of unit gallery embeddings.

    Deterministic for a seed.

    Args:
        anchors: centres of each part, at most n are made.

    Raises:
        ValueError: d is no multiple of ``parts``.

    Source: Jégou et al., Product quantization for nearest neighbor search, TPAMI 2011; Arthur and Vassilvitskii,
    k-means++, SODA 2007.
    """
    if gallery.shape[1] % parts:
        raise ValueError(f"{gallery.shape[1]} dimensions cannot be cut into {parts} equal parts")
    generator = torch.Generator().manual_seed(seed)
    rows = unit(gallery)
    return torch.stack([_k_means(part, min(anchors, len(rows)), generator) for part in rows.chunk(parts, dim=1)])


def _to_anchors(rows: Float[Tensor, "b d"], anchors: Float[Tensor, "m k e"]) -> Float[Tensor, "m b k"]:
    parts, _, size = anchors.shape
    return torch.bmm(rows.reshape(len(rows), parts, size).transpose(0, 1), anchors.transpose(1, 2))


def _k_means(points: Float[Tensor, "n e"], count: int, generator: torch.Generator) -> Float[Tensor, "k e"]:
    centres = _spread_out(points, count, generator)
    for _ in range(_ROUNDS):
        # ‖x − c‖² without the ‖x‖² that all centres share
        nearest = (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        members = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.where(members > 0, sums / members.clamp(min=1), centres)
    return centres


def _spread_out(points: Float[Tensor, "n e"], count: int, generator: torch.Generator) -> Float[Tensor, "k e"]:
    """Points to start from, each drawn with a chance in proportion to its squared distance from those drawn before."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    apart = (points - points[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        chance = apart.cpu() + torch.finfo(apart.dtype).tiny  # all points alike: any will do
        chosen.append(int(torch.multinomial(chance, 1, generator=generator)))
        apart = torch.minimum(apart, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]

"""Relational distillation, a negative control: distances and angles within a batch, in a space of the student's own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

_EPSILON = 1e-12  # under a root, whose derivative at 0 is not finite


def relational_loss(
    query: Float[Tensor, "b d"], gallery: Float[Tensor, "b d"], *, distance: float, angle: float
) -> Float[Tensor, ""]:
    """Huber loss between the two models' tables of distances (over their mean) and of angles within the batch.

    ``distance`` and ``angle`` weigh the two parts. Both sides are L2-normalised first. Does **not** bring a student
    into the gallery model's space: all distances and angles stay as they are when its embeddings are rotated. No
    gradient reaches the gallery embeddings.

    Source: Park et al., Relational knowledge distillation, CVPR 2019, eq. 6 to 10.
    """
    seen, known = normalize(query), normalize(gallery.detach())
    total = query.new_zeros(())
    if distance:
        total = total + distance * smooth_l1_loss(_distances(seen), _distances(known))
    if angle:
        total = total + angle * smooth_l1_loss(_angles(seen), _angles(known))
    return total


def _distances(unit: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    distances = (2 - 2 * unit @ unit.T).clamp(min=_EPSILON).sqrt() * _others(unit)
    return distances / (distances.sum() / max(1, len(unit) * (len(unit) - 1)))


def _angles(unit: Float[Tensor, "b d"]) -> Float[Tensor, "b b b"]:
    """Cosine of the angle at i between the directions to j and to k, from the Gram matrix alone.

    ``⟨x_j − x_i, x_k − x_i⟩ = g_jk − g_ij − g_ik + g_ii``: b² products of d numbers instead of b³.
    """
    gram = unit @ unit.T
    products = gram[None] - gram[:, :, None] - gram[:, None, :] + gram.diag()[:, None, None]
    squares = products.diagonal(dim1=1, dim2=2)
    # There is no direction from a picture to itself: 0, where rounding would leave a ratio of two residues.
    inverse = squares.clamp(min=_EPSILON).rsqrt() * _others(unit)
    return products * inverse[:, :, None] * inverse[:, None, :]


def _others(unit: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """0 for a picture and itself, 1 elsewhere."""
    return 1 - torch.eye(len(unit), dtype=unit.dtype, device=unit.device)

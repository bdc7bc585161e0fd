"""Relational distillation, a negative control: distances and angles within a batch, in a space of the student's own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from hetero.losses.unit import unit

_EPSILON = 1e-12  # under a root, whose derivative at 0 is not finite
_COINCIDENT = 1e-6  # squared distance below which rounding, in float32, decides a direction


def relational_loss(
    query: Float[Tensor, "b d"],
    gallery: Float[Tensor, "b d"],
    *,
    distance: float,
    angle: float,
    group: int | None = None,
) -> Float[Tensor, ""]:
    """Huber loss between the two models' tables of distances (over their mean) and of angles within the batch.

    ``distance`` and ``angle`` weigh the two parts. Both sides are L2-normalised first. Does **not** bring a student
    into the gallery model's space: all distances and angles stay as they are when its embeddings are rotated. No
    gradient reaches the gallery embeddings.

    Args:
        group: cut a larger batch evenly into groups of at most so many pictures, and take the mean over groups of what
            each says within itself. Angles cost the cube of the pictures.

    Source: Park et al., Relational knowledge distillation, CVPR 2019, eq. 6 to 10.
    """
    seen, known = unit(query), unit(gallery.detach())
    groups = -(-len(seen) // group) if group is not None else 1
    parts = zip(seen.tensor_split(groups), known.tensor_split(groups), strict=True)
    return torch.stack([_within(one, other, distance, angle) for one, other in parts]).mean()


def _within(seen: Float[Tensor, "b d"], known: Float[Tensor, "b d"], distance: float, angle: float) -> Tensor:
    total = seen.new_zeros(())
    if distance:
        total = total + distance * smooth_l1_loss(_distances(seen), _distances(known))
    if angle:
        total = total + angle * smooth_l1_loss(_angles(seen), _angles(known))
    return total


def _distances(unit: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    others = 1 - torch.eye(
        len(unit), dtype=unit.dtype, device=unit.device
    )  # a picture and itself: 0 after rounding, too
    distances = (2 - 2 * unit @ unit.T).clamp(min=_EPSILON).sqrt() * others
    return distances / (distances.sum() / max(1, len(unit) * (len(unit) - 1)))


def _angles(unit: Float[Tensor, "b d"]) -> Float[Tensor, "b b b"]:
    """Cosine of the angle at i between the directions to j and to k; 0 where there is no direction.

    Of unit vectors the products of directions are sums of cosines,
    ``(u_j − u_i)·(u_k − u_i) = 1 + c_jk − c_ij − c_ik``: b³ of them, without d times as many products.
    """
    cosines = unit @ unit.T
    squares = 2 - 2 * cosines
    apart = squares > _COINCIDENT
    inverse = torch.where(apart, torch.where(apart, squares, 1.0).rsqrt(), 0.0)
    scaled = inverse * cosines
    # as products of matrices, whose gradients need no b³ numbers of their own
    both = torch.bmm(inverse[:, :, None], inverse[:, None, :])
    one = torch.bmm(torch.stack((scaled, inverse), 2), -torch.stack((inverse, scaled), 1))
    return torch.addcmul(one, cosines[None] + 1, both)

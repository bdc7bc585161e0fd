"""Class centres with a boundary: a query embedding stays as near to its centre as the gallery model keeps it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hetero.losses.unit import SHORTEST, unit


def boundary_loss(
    query: Float[Tensor, "b d"],
    centres: Float[Tensor, "c d"],
    boundaries: Float[Tensor, " c"],
    labels: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """``max(0, boundary_y − cos(φ_q(x), centre_y))``, mean over the batch, 0..2.

    Pushes a picture only as far as the gallery model's own pictures of its class lie, and not onto the centre. No
    gradient reaches the centres.

    Args:
        centres, boundaries: see :func:`class_centres`.

    Source: Meng et al., Learning compatible embeddings, ICCV 2021, boundary loss, in cosines.
    """
    return (boundaries[labels] - cosine_similarity(query, centres.detach()[labels], eps=SHORTEST)).relu().mean()


def centre_alignment_loss(
    prototypes: Float[Tensor, "c d"], centres: Float[Tensor, "c d"], known: Bool[Tensor, " c"]
) -> Float[Tensor, ""]:
    """``½ ‖w_c − centre_c‖²`` of unit vectors, mean over the known classes, 0..2: the student's own classifier.

    Source: Meng et al., Learning compatible embeddings, ICCV 2021, alignment loss without a transformation.
    """
    difference = unit(prototypes[known]) - unit(centres.detach()[known])
    return 0.5 * difference.square().sum(1).mean()


def class_centres(
    gallery: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, num_classes: int
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"], Bool[Tensor, " c"]]:
    """Unit mean of each class's unit gallery embeddings, the least cosine of a member to it, and which classes exist.

    Needs the gallery embeddings of pictures, not the gallery model's classifier. A class without a picture has a centre
    of zeros and the boundary −1, which asks nothing.

    Source: Meng et al., Learning compatible embeddings, ICCV 2021, class centres and their boundaries.
    """
    rows = unit(gallery)
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, labels, rows)
    centres = unit(sums)
    cosines = (rows * centres[labels]).sum(1)
    boundaries = torch.full((num_classes,), 2.0, dtype=rows.dtype, device=rows.device)
    boundaries = boundaries.scatter_reduce_(0, labels, cosines, "amin")
    known = torch.bincount(labels, minlength=num_classes) > 0
    return centres, torch.where(known, boundaries, -1.0), known

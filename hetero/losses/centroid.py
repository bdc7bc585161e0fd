"""Centroid alignment: what a student gets wrong about all pictures of a class alike."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetero.losses.unit import unit


def centroid_loss(
    query: Float[Tensor, "b d"], gallery: Float[Tensor, "b d"], groups: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """``½ ‖mean over a class of φ_q(x) − φ_g(x)‖²``, mean over the classes in the batch, 0..2.

    Both sides are L2-normalised here. A student's error on one picture is split by its class in the batch: the part
    common to the class moves all its queries away from their matches in the gallery, and the rest averages out over
    them. Alignment weighs both alike; with K pictures of each class this is the first part and 1/K of the second, so
    that their weighted sum spends a small model's capacity on what a search between two models cannot forgive. At
    K = 1 it is alignment again. No gradient reaches the gallery embeddings.

    Args:
        groups: the class of each picture, any integers; equal means the same class.

    Source: hetero's own; the bias of the bias-variance split of the squared distance that
    :func:`hetero.losses.alignment.alignment_loss` is half of.
    """
    error = unit(query) - unit(gallery.detach())
    _, row, count = torch.unique(groups, return_inverse=True, return_counts=True)
    sums = error.new_zeros(len(count), error.shape[1]).index_add(0, row, error)
    return 0.5 * (sums / count[:, None]).square().sum(1).mean()

"""Normalised softmax with a margin: the cosine classifier that trains gallery models and controls."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from hetero.losses.unit import unit


def margin_softmax_loss(
    embedding: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    scale: float,
    margin: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of ``scale · (cos(embedding, prototype) − margin · [own class])``, in nats, mean over the batch.

    Both sides are L2-normalised here. Gradients flow to both.

    Args:
        scale: inverse temperature of the cosines. margin: subtracted from the own class's cosine.

    Source: Wang et al., CosFace, CVPR 2018, eq. 4; with ``margin`` 0, Wang et al., NormFace, MM 2017.
    """
    cosines = unit(embedding) @ unit(prototypes).T
    rows = torch.arange(len(labels), device=labels.device)
    penalty = torch.zeros_like(cosines)
    penalty[rows, labels] = margin
    return cross_entropy(scale * (cosines - penalty), labels)

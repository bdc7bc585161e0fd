"""Embeddings as unit vectors, whatever a network makes of a batch."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

SHORTEST = 1e-3
"""Embeddings that are shorter are divided by this instead of by their length: after batch normalisation a batch of
equal pictures has length 0, where the gradient of a direction is as large as this is small, and would ruin the network
for good."""


def unit(embedding: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Each row divided by its length, or by :data:`SHORTEST` where that is more."""
    return normalize(embedding, eps=SHORTEST)

"""The influence loss: a query model is judged by the gallery model's frozen classifier."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from hetero.losses.softmax import margin_softmax_loss


def influence_loss(
    query: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    scale: float,
    margin: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of query embeddings under the frozen gallery classifier, in nats, mean over the batch.

    No gradient reaches the prototypes.

    Source: Shen et al., Towards backward-compatible representation learning, CVPR 2020, influence loss; with the
    cosine classifier of Duggal et al., Compatibility-aware heterogeneous visual search, CVPR 2021.
    """
    return margin_softmax_loss(query, prototypes.detach(), labels, scale=scale, margin=margin)

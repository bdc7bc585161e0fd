"""The influence loss: a query model is judged by a frozen classifier of the gallery model's space."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from hetero.losses.softmax import margin_softmax_loss


def influence_loss(
    query: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    scale: float,
    margin: float = 0.0,
    normalised: bool = True,
    known: Bool[Tensor, " c"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of query embeddings under the frozen gallery classifier, in nats, mean over the batch.

    No gradient reaches the prototypes.

    Args:
        scale, margin: of the cosines, see :func:`hetero.losses.softmax.margin_softmax_loss`.
        normalised: cosines; else the plain inner products ``⟨φ_q(x), w⟩`` of a linear classifier, and ``scale`` and
            ``margin`` do not count.
        known: which classes have a prototype. Pictures of the others are skipped, and the others are no choice; the
            mean is over the rest of the batch, 0 where nothing is left.

    Source: Shen et al., Towards backward-compatible representation learning, CVPR 2020, influence loss; with the
    cosine classifier of Duggal et al., Compatibility-aware heterogeneous visual search, CVPR 2021.
    """
    prototypes = prototypes.detach()
    if known is not None and not bool(known.all()):
        place = known.cumsum(0) - 1
        kept = known[labels]
        query, labels, prototypes = query[kept], place[labels[kept]], prototypes[known]
        if len(query) == 0:
            return query.sum()
    if not normalised:
        return cross_entropy(query @ prototypes.T, labels)
    return margin_softmax_loss(query, prototypes, labels, scale=scale, margin=margin)

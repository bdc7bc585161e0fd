"""Direct alignment: a query embedding should be the gallery embedding of the same picture."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hetero.losses.unit import SHORTEST


def alignment_loss(query: Float[Tensor, "b d"], gallery: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """``1 − cos(φ_q(x), φ_g(x))``, mean over the batch, 0..2; half the squared distance of the unit vectors.

    No gradient reaches the gallery embeddings.

    Source: Budnik and Avrithis, Asymmetric metric learning for knowledge transfer, CVPR 2021, eq. 5 (regression).
    """
    return (1 - cosine_similarity(query, gallery.detach(), eps=SHORTEST)).mean()


def l2_alignment_loss(query: Float[Tensor, "b d"], gallery: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """``‖φ_q(x) − φ_g(x)‖² / d`` of the embeddings as the networks give them, lengths included; mean over the batch.

    The stronger demand: a search by cosine never sees the length. No gradient reaches the gallery embeddings.

    Source: Romero et al., FitNets, ICLR 2015, eq. 3, at the embedding.
    """
    return (query - gallery.detach()).square().mean()

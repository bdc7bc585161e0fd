"""Logit distillation, a negative control: the same class decisions, in a space of the student's own."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div

from hetero.losses.unit import unit


def logit_distillation_loss(
    query: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    gallery: Float[Tensor, "b d"],
    gallery_prototypes: Float[Tensor, "c d"],
    *,
    scale: float,
    temperature: float,
) -> Float[Tensor, ""]:
    """``T² · KL(p_g ‖ p_q)`` in nats, mean over the batch, of ``softmax(scale · cosines / T)`` of each classifier.

    Does **not** bring a student into the gallery model's space: rotate the student's embeddings and its prototypes
    together, and the loss stays as it is. Such a student finds nothing in the gallery. No gradient reaches the gallery
    model's side.

    Source: Hinton et al., Distilling the knowledge in a neural network, 2015.
    """
    known = scale / temperature * unit(gallery.detach()) @ unit(gallery_prototypes.detach()).T
    seen = scale / temperature * unit(query) @ unit(prototypes).T
    return temperature**2 * kl_div(seen.log_softmax(1), known.softmax(1), reduction="batchmean")

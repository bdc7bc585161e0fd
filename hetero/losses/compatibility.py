"""The heterogeneous compatibility loss: a weighted sum of terms, each reported on its own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from hetero.config import LossConfig
from hetero.errors import ConfigError
from hetero.losses.alignment import alignment_loss
from hetero.losses.centroid import centroid_loss
from hetero.losses.influence import influence_loss
from hetero.losses.softmax import margin_softmax_loss


class CompatibilityLoss(nn.Module):
    """Weighted sum of the terms named in a :class:`hetero.config.LossConfig`.

    ``softmax`` trains prototypes of its own (a parameter here); ``influence`` judges under the gallery's frozen
    prototypes (a buffer here); ``alignment`` and ``centroid`` need the gallery embedding of the same batch.

    Args:
        gallery_prototypes: ``[c, d]``, needed by ``influence``.
        seed: of the own prototypes' initial values.

    Raises:
        ConfigError: no term at all, or ``influence`` without gallery prototypes.
    """

    gallery_prototypes: Tensor

    def __init__(
        self,
        config: LossConfig,
        *,
        num_classes: int,
        dim: int,
        gallery_prototypes: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        if config.influence is not None:
            if gallery_prototypes is None:
                raise ConfigError(
                    "the influence term needs the gallery model's prototypes",
                    fix="use it for students only, or use the softmax term",
                )
            self.register_buffer("gallery_prototypes", normalize(gallery_prototypes), persistent=False)
        if config.softmax is not None:
            generator = torch.Generator().manual_seed(seed)
            self.prototypes = nn.Parameter(torch.randn(num_classes, dim, generator=generator) / dim**0.5)

    @property
    def needs_gallery(self) -> bool:
        """Whether :meth:`forward` needs the gallery embedding."""
        return self.config.alignment is not None or self.config.centroid is not None

    def forward(
        self,
        embedding: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        gallery_embedding: Float[Tensor, "n d"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The weighted total and each term before weighting.

        Pictures of no training class have negative labels, equal within a class of strangers:
        ``alignment`` and ``centroid`` alone look at those.
        """
        config, terms = self.config, {}
        known = labels[labels >= 0]
        classed = embedding[labels >= 0]
        total = embedding.new_zeros(())
        if config.softmax is not None:
            terms["softmax"] = margin_softmax_loss(
                classed, self.prototypes, known, scale=config.softmax.scale, margin=config.softmax.margin
            )
            total = total + config.softmax.weight * terms["softmax"]
        if config.influence is not None:
            terms["influence"] = influence_loss(
                classed,
                self.gallery_prototypes,
                known,
                scale=config.influence.scale,
                margin=config.influence.margin,
            )
            total = total + config.influence.weight * terms["influence"]
        if config.alignment is not None:
            terms["alignment"] = alignment_loss(embedding, _given(gallery_embedding))
            total = total + config.alignment.weight * terms["alignment"]
        if config.centroid is not None:
            terms["centroid"] = centroid_loss(embedding, _given(gallery_embedding), labels)
            total = total + config.centroid.weight * terms["centroid"]
        return total, terms


def _given(gallery_embedding: Tensor | None) -> Tensor:
    if gallery_embedding is None:
        raise ConfigError("the alignment and centroid terms need a gallery model", fix="use them for students only")
    return gallery_embedding

"""The heterogeneous compatibility loss: a weighted sum of terms, each reported on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hetero.errors import ConfigError
from hetero.losses.alignment import alignment_loss, l2_alignment_loss
from hetero.losses.centre import boundary_loss, centre_alignment_loss
from hetero.losses.centroid import centroid_loss
from hetero.losses.config import CentreConfig, InfluenceConfig, LossConfig, StructureConfig
from hetero.losses.contextual import Nearest, contextual_loss
from hetero.losses.contrastive import contrastive_loss
from hetero.losses.decoupled import decoupled_loss
from hetero.losses.distillation import logit_distillation_loss
from hetero.losses.influence import influence_loss
from hetero.losses.ranking import ranking_loss
from hetero.losses.reference import GalleryReference
from hetero.losses.relational import relational_loss
from hetero.losses.softmax import margin_softmax_loss
from hetero.losses.structure import product_anchors, structure_loss
from hetero.losses.triplet import triplet_loss


class CompatibilityLoss(nn.Module):
    """Weighted sum of the terms named in a :class:`hetero.losses.config.LossConfig`.

    The softmax term's prototypes are parameters here; whatever comes from the gallery model is constant.

    Args:
        reference: what the terms need of the gallery model, None for a model that trains without one.
        seed: of the own prototypes' initial values and of the product quantiser.

    Raises:
        ConfigError: no term at all, a term without what it needs of the gallery model, or a dimension that
            ``structure.parts`` does not divide.
    """

    def __init__(
        self,
        config: LossConfig,
        *,
        num_classes: int,
        dim: int,
        reference: GalleryReference | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.reference = reference or GalleryReference()
        _require_known(config, self.reference)
        if config.softmax is not None:
            generator = torch.Generator().manual_seed(seed)
            self.prototypes = nn.Parameter(torch.randn(num_classes, dim, generator=generator) / dim**0.5)
        if config.structure is not None:
            self.anchors = _quantiser(config.structure, self.reference, dim, seed)

    @property
    def needs_gallery(self) -> bool:
        """Whether :meth:`forward` needs the gallery embedding."""
        return self.config.needs_embedding

    def forward(
        self,
        embedding: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        gallery_embedding: Float[Tensor, "n d"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The weighted total and each term before weighting.

        Pictures of no training class have negative labels, equal within a class of strangers; terms that speak of
        training classes (softmax, influence, centre) do not look at those.
        """
        if self.needs_gallery and gallery_embedding is None:
            raise ConfigError(
                f"the loss terms {', '.join(self.config.terms)} need a gallery model", fix="use them for students only"
            )
        batch = _Batch(embedding, labels, embedding, labels, gallery_embedding)
        if any(name in _OF_CLASSES for name in self.config.terms):  # a mask makes a GPU wait
            classed = labels >= 0
            batch = replace(batch, classed=embedding[classed], classes=labels[classed])
        total, terms = embedding.new_zeros(()), {}
        for name in self.config.terms:
            config = getattr(self.config, name)
            if name in _OF_CLASSES and len(batch.classes) == 0:
                terms[name] = embedding.sum() * 0  # a mean over nothing
            else:
                terms[name] = _TERMS[name](config, batch, self)
            total = total + config.weight * terms[name]
        return total, terms


@dataclass(frozen=True)
class _Batch:
    """One batch as the terms see it: all pictures, and the part of them (``classed``) that has a training class."""

    query: Tensor
    labels: Tensor
    classed: Tensor
    classes: Tensor
    gallery: Any


_OF_CLASSES = ("softmax", "influence", "centre")
_ALIGNMENTS = {"cosine": alignment_loss, "l2": l2_alignment_loss}
_TERMS: dict[str, Callable[[Any, _Batch, Any], Tensor]] = {  # of the term's config, the batch, the whole loss
    "softmax": lambda config, batch, loss: margin_softmax_loss(
        batch.classed, loss.prototypes, batch.classes, scale=config.scale, margin=config.margin
    ),
    "influence": lambda config, batch, loss: _influence(config, batch, loss.reference),
    "alignment": lambda config, batch, loss: _ALIGNMENTS[config.distance](batch.query, batch.gallery),
    "centroid": lambda config, batch, loss: centroid_loss(batch.query, batch.gallery, batch.labels),
    "contrastive": lambda config, batch, loss: contrastive_loss(
        batch.query, batch.gallery, batch.labels, margin=config.margin
    ),
    "triplet": lambda config, batch, loss: triplet_loss(batch.query, batch.gallery, batch.labels, margin=config.margin),
    "contextual": lambda config, batch, loss: contextual_loss(
        batch.query,
        batch.gallery,
        _candidates(config, batch, loss.reference),
        nearest=_nearest(config, batch, loss.reference),
        neighbours=config.neighbours,
        query_temperature=config.query_temperature,
        gallery_temperature=config.gallery_temperature,
    ),
    "structure": lambda config, batch, loss: structure_loss(
        batch.query,
        batch.gallery,
        loss.anchors,
        query_temperature=config.query_temperature,
        gallery_temperature=config.gallery_temperature,
    ),
    "ranking": lambda config, batch, loss: ranking_loss(
        batch.query,
        batch.gallery,
        _candidates(config, batch, loss.reference),
        nearest=_nearest(config, batch, loss.reference),
        neighbours=config.neighbours,
        temperature=config.temperature,
    ),
    "decoupled": lambda config, batch, loss: decoupled_loss(
        batch.query,
        batch.gallery,
        _candidates(config, batch, loss.reference),
        nearest=_nearest(config, batch, loss.reference),
        neighbours=config.neighbours,
        feature=config.feature,
        inconsistent=config.inconsistent,
        consistent=config.consistent,
    ),
    "centre": lambda config, batch, loss: _centre(config, batch, loss),
    "logits": lambda config, batch, loss: logit_distillation_loss(
        batch.query,
        loss.prototypes[loss.reference.known],
        batch.gallery,
        loss.reference.classifier[loss.reference.known],
        scale=config.scale,
        temperature=config.temperature,
    ),
    "relational": lambda config, batch, loss: relational_loss(
        batch.query, batch.gallery, distance=config.distance, angle=config.angle, group=config.group
    ),
}


def _influence(config: InfluenceConfig, batch: _Batch, reference: Any) -> Tensor:
    if config.prototypes == "centres":
        prototypes, known = reference.centres, None
    elif config.missing == "centre":
        prototypes, known = torch.where(reference.known[:, None], reference.classifier, reference.centres), None
    else:
        prototypes, known = reference.classifier, reference.known
    return influence_loss(
        batch.classed,
        prototypes,
        batch.classes,
        scale=config.scale,
        margin=config.margin,
        normalised=config.normalised,
        known=known,
    )


def _centre(config: CentreConfig, batch: _Batch, loss: Any) -> Tensor:
    centres, boundaries = loss.reference.centres, loss.reference.boundaries
    value = boundary_loss(batch.classed, centres, boundaries, batch.classes)
    if config.alignment:
        value = value + config.alignment * centre_alignment_loss(loss.prototypes, centres, boundaries > -1)
    return value


def _candidates(config: Any, batch: _Batch, reference: Any) -> Tensor:
    return batch.gallery.detach() if config.candidates == "batch" else reference.bank[: config.bank]


def _nearest(config: Any, batch: _Batch, reference: Any) -> Nearest | None:
    """Those of the bank, which all students share."""
    if config.candidates == "batch" or config.neighbours >= min(config.bank, len(reference.bank)):
        return None
    found: Nearest = reference.nearest(batch.gallery, reference.bank[: config.bank], neighbours=config.neighbours)
    return found


def _require_known(config: LossConfig, reference: GalleryReference) -> None:
    for needed, given, what, instead in (
        (
            config.needs_classifier,
            reference.classifier,
            "the gallery model's classifier (prototypes.safetensors)",
            "influence with prototypes: centres, or terms without it, such as alignment",
        ),
        (config.needs_centres, reference.centres, "the classes' mean gallery embeddings", "alignment or centroid"),
        (
            config.bank_size > 0,
            reference.bank,
            "gallery embeddings of the training pictures",
            "candidates: batch, or alignment",
        ),
    ):
        if needed and given is None:
            raise ConfigError(
                f"this loss ({', '.join(config.terms)}) needs {what}",
                fix=f"train its student under a finished gallery model that has them, or use {instead}",
            )


def _quantiser(config: StructureConfig, reference: Any, dim: int, seed: int) -> Tensor:
    if dim % config.parts:
        raise ConfigError(
            "structure.parts does not divide the embedding's dimension",
            got=f"{config.parts} parts of {dim}",
            fix="choose a divisor, such as 16 for 128",
        )
    return product_anchors(reference.bank[: config.bank], parts=config.parts, anchors=config.anchors, seed=seed)

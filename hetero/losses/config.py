"""The ``loss`` section of a config: which terms, with which weight. No torch is needed to read one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hetero.validation import Section

Candidates = Literal["batch", "bank"]
"""Gallery embeddings to be placed among: those of the batch, or of ``bank`` random training pictures, made once."""


class _Term(Section):
    weight: float = Field(default=1.0, gt=0)


class SoftmaxConfig(_Term):
    """Own cosine classifier, see :func:`hetero.losses.softmax.margin_softmax_loss`."""

    scale: float = Field(default=16.0, gt=0)
    margin: float = Field(default=0.2, ge=0, lt=1)


class InfluenceConfig(SoftmaxConfig):
    """A frozen classifier of the gallery's space, see :func:`hetero.losses.influence.influence_loss`.

    Attributes:
        prototypes: ``centres``, the mean gallery embedding of each class, or ``classifier``, the gallery model's own
            (see docs/losses.md on the patent before choosing it).
        normalised: cosines with scale and margin, or plain inner products.
        missing: what becomes of classes that the gallery model's classifier does not know: ``skip`` their pictures, or
            give them their ``centre``. Without effect on centres: every class has one.
    """

    prototypes: Literal["centres", "classifier"] = "centres"
    normalised: bool = True
    missing: Literal["skip", "centre"] = "skip"

    @model_validator(mode="after")
    def _of_use(self) -> InfluenceConfig:
        given = SoftmaxConfig()
        if not self.normalised and (self.scale, self.margin) != (given.scale, given.margin):
            raise ValueError("normalised: false takes inner products as they are: remove scale and margin")
        return self


class AlignmentConfig(_Term):
    """Direct alignment, see ``hetero/losses/alignment.py``: ``cosine`` of the two embeddings, or ``l2`` as they are."""

    weight: float = Field(default=10.0, gt=0)
    distance: Literal["cosine", "l2"] = "cosine"


class CentroidConfig(_Term):
    """Centroid alignment, see :func:`hetero.losses.centroid.centroid_loss`; use it with the PK sampler."""

    weight: float = Field(default=10.0, gt=0)


class ContrastiveConfig(_Term):
    """Asymmetric pairs in the batch, see :func:`hetero.losses.contrastive.contrastive_loss`."""

    margin: float = Field(default=0.4, ge=-1, lt=1)


class TripletConfig(_Term):
    """Asymmetric triplets in the batch, see :func:`hetero.losses.triplet.triplet_loss`."""

    margin: float = Field(default=0.1, gt=0, le=2)


class _Neighbours(_Term):
    candidates: Candidates = "bank"
    bank: int = Field(default=4096, ge=2)

    @model_validator(mode="after")
    def _one_kind(self) -> _Neighbours:
        if self.candidates == "batch" and self.bank != type(self).model_fields["bank"].default:
            raise ValueError("candidates: batch looks among the batch alone: remove bank, or choose candidates: bank")
        return self


class ContextualConfig(_Neighbours):
    """Similarities to the nearest gallery embeddings, see :func:`hetero.losses.contextual.contextual_loss`."""

    neighbours: int = Field(default=64, ge=2)
    query_temperature: float = Field(default=0.1, gt=0)
    gallery_temperature: float = Field(default=0.1, gt=0)


class RankingConfig(_Neighbours):
    """The order of the nearest gallery embeddings, see :func:`hetero.losses.ranking.ranking_loss`."""

    neighbours: int = Field(default=32, ge=2)
    temperature: float = Field(default=0.02, gt=0)


class DecoupledConfig(_Neighbours):
    """Differences of similarities, see :func:`hetero.losses.decoupled.decoupled_loss`."""

    neighbours: int = Field(default=32, ge=2)
    feature: float = Field(default=10.0, ge=0)
    inconsistent: float = Field(default=1.0, ge=0)
    consistent: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _some_part(self) -> DecoupledConfig:
        if self.feature + self.inconsistent + self.consistent == 0:
            raise ValueError("one of feature, inconsistent and consistent must weigh something")
        return self


class StructureConfig(_Term):
    """Soft product-quantiser codes, see :func:`hetero.losses.structure.structure_loss`.

    Attributes:
        parts: of equal length into which an embedding is cut; must divide its dimension. anchors: of each part.
    """

    parts: int = Field(default=16, ge=1)
    anchors: int = Field(default=64, ge=2)
    bank: int = Field(default=4096, ge=2)
    query_temperature: float = Field(default=0.02, gt=0)
    gallery_temperature: float = Field(default=0.02, gt=0)


class CentreConfig(_Term):
    """Class centres with a boundary, see ``hetero/losses/centre.py``.

    Attributes:
        alignment: weight of drawing the student's own classifier to the centres; needs the softmax term.
    """

    weight: float = Field(default=10.0, gt=0)
    alignment: float = Field(default=0.0, ge=0)


class LogitsConfig(_Term):
    """Logit distillation, a negative control, see :func:`hetero.losses.distillation.logit_distillation_loss`."""

    scale: float = Field(default=16.0, gt=0)
    temperature: float = Field(default=4.0, gt=0)


class RelationalConfig(_Term):
    """Relational distillation, a negative control, see :func:`hetero.losses.relational.relational_loss`."""

    distance: float = Field(default=25.0, ge=0)
    angle: float = Field(default=50.0, ge=0)
    group: int = Field(default=128, ge=3)

    @model_validator(mode="after")
    def _some_part(self) -> RelationalConfig:
        if self.distance + self.angle == 0:
            raise ValueError("distance or angle must weigh something")
        return self


PLACING = (
    "influence", "alignment", "centroid", "contrastive", "triplet", "contextual", "structure", "ranking", "decoupled",
    "centre",
)  # fmt: skip
"""Terms that say where in the gallery model's space an embedding belongs."""
FREE = ("softmax", "logits", "relational")
"""Terms that stay as they are when a student's embeddings and prototypes are rotated: they place nothing."""


class LossConfig(Section):
    """The weighted terms of the heterogeneous compatibility loss; at least one."""

    softmax: SoftmaxConfig | None = None
    influence: InfluenceConfig | None = None
    alignment: AlignmentConfig | None = None
    centroid: CentroidConfig | None = None
    contrastive: ContrastiveConfig | None = None
    triplet: TripletConfig | None = None
    contextual: ContextualConfig | None = None
    structure: StructureConfig | None = None
    ranking: RankingConfig | None = None
    decoupled: DecoupledConfig | None = None
    centre: CentreConfig | None = None
    logits: LogitsConfig | None = None
    relational: RelationalConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LossConfig:
        if not self.terms:
            raise ValueError(f"a loss needs at least one of {', '.join(FREE + PLACING)}")
        if self.logits is not None and self.softmax is None:
            raise ValueError("logits compares two classifiers: add the softmax term, which trains the student's")
        if self.centre is not None and self.centre.alignment and self.softmax is None:
            raise ValueError("centre.alignment draws the student's classifier to the centres: add the softmax term")
        return self

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms there are."""
        return tuple(name for name in FREE + PLACING if getattr(self, name) is not None)

    @property
    def places(self) -> bool:
        """Whether any term says where in the gallery model's space an embedding belongs."""
        return any(name in PLACING for name in self.terms)

    @property
    def needs_embedding(self) -> bool:
        """Whether any term looks at the gallery embedding of the batch."""
        return any(name not in ("softmax", "influence", "centre") for name in self.terms)

    @property
    def needs_classifier(self) -> bool:
        """Whether any term looks at the gallery model's classifier."""
        return self.logits is not None or (self.influence is not None and self.influence.prototypes == "classifier")

    @property
    def needs_centres(self) -> bool:
        """Whether any term looks at the classes' mean gallery embeddings."""
        influence = self.influence
        return self.centre is not None or (
            influence is not None and (influence.prototypes == "centres" or influence.missing == "centre")
        )

    @property
    def bank_size(self) -> int:
        """How many training pictures' gallery embeddings must be known beforehand, 0 for none."""
        lists = [term for term in (self.contextual, self.ranking, self.decoupled) if term is not None]
        sizes = [term.bank for term in lists if term.candidates == "bank"]
        return max([*sizes, self.structure.bank if self.structure is not None else 0])

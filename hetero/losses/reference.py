"""What a student's loss may know of the gallery model beside its embedding of the batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hetero.losses.centre import class_centres
from hetero.losses.contextual import Nearest, nearest_candidates
from hetero.losses.unit import unit


@dataclass(frozen=True)
class GalleryReference:
    """Made once, before students train; see :func:`make_reference`. What no loss asks for is None.

    Attributes:
        classifier: ``[c, d]``, the gallery model's prototypes in the order of the students' classes.
        known: ``bool [c]``, which of those rows the gallery model has.
        centres, boundaries: ``[c, d]`` and ``[c]``, see :func:`hetero.losses.centre.class_centres`.
        bank: ``[n, d]``, unit gallery embeddings of training pictures in random order.
    """

    classifier: Float[Tensor, "c d"] | None = None
    known: Bool[Tensor, " c"] | None = None
    centres: Float[Tensor, "c d"] | None = None
    boundaries: Float[Tensor, " c"] | None = None
    bank: Float[Tensor, "n d"] | None = None
    _memo: _Memo = field(default_factory=lambda: _Memo(), repr=False, compare=False)

    def nearest(self, gallery: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"], *, neighbours: int) -> Nearest:
        """The candidates nearest to a batch's gallery embeddings, found once however many students ask for them.

        Args:
            candidates: the first rows of ``bank``.
        """
        return self._memo.nearest(gallery, candidates, neighbours)


class _Memo:
    """What was found for the batch that was asked for last; students ask side by side."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._gallery: Tensor | None = None
        self._found: dict[tuple[int, int], Nearest] = {}

    def nearest(self, gallery: Tensor, candidates: Tensor, neighbours: int) -> Nearest:
        with self._lock:
            if gallery is not self._gallery:
                self._gallery, self._found = gallery, {}
            key = len(candidates), neighbours
            if key not in self._found:
                self._found[key] = nearest_candidates(gallery, candidates, neighbours=neighbours)
            return self._found[key]


def make_reference(
    embedding: Float[Tensor, "n d"] | None,
    labels: Int[Tensor, " n"] | None,
    *,
    num_classes: int,
    classifier: Float[Tensor, "c d"] | None = None,
    known: Bool[Tensor, " c"] | None = None,
    centres: bool = True,
    bank_size: int | None = None,
    seed: int = 0,
) -> GalleryReference:
    """From the gallery embeddings of the training pictures as they are, without augmentation.

    Args:
        embedding, labels: of the training pictures, None where no loss needs more than the classifier.
        centres: whether a loss needs them. bank_size: rows of the bank at most, 0 for none; None: all there are.
        seed: of the bank's order, so that its first n rows are n random pictures.
    """
    if embedding is None or labels is None:
        return GalleryReference(classifier=classifier, known=known)
    means, boundaries, bank = None, None, None
    if centres:
        means, boundaries, _ = class_centres(embedding, labels, num_classes=num_classes)
    if bank_size != 0:
        order = torch.randperm(len(embedding), generator=torch.Generator().manual_seed(seed))[:bank_size]
        bank = unit(embedding[order.to(embedding.device)])
    return GalleryReference(classifier, known, means, boundaries, bank)


def match_classifier(
    prototypes: Float[Tensor, "p d"], names: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[Float[Tensor, "c d"], Bool[Tensor, " c"]]:
    """The gallery model's prototypes in the order of ``classes``, and which of these it knows; zeros for the others.

    Args:
        names: of the prototypes' rows. classes: of the students' labels.
    """
    place = {name: row for row, name in enumerate(names)}
    rows = torch.tensor([place.get(name, -1) for name in classes])
    known = rows >= 0
    return torch.where(known[:, None], prototypes[rows.clamp(min=0)], 0.0), known

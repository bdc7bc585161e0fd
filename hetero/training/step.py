"""One training step: the gallery model's forward once, then every trainee's own step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from hetero.losses.alignment import alignment_loss
from hetero.training.augment import POSES
from hetero.training.memory import Embedder
from hetero.training.parallel import Mapper, one_by_one
from hetero.training.trainee import Trainee

Terms = dict[str, dict[str, Tensor]]
"""For each trainee its detached ``total`` and unweighted terms, 0-dimensional tensors."""


def stranger_labels(labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """What to call the strangers made of these classes: negative, and equal where they were made alike."""
    return -1 - labels


def train_step(
    trainees: Sequence[Trainee],
    gallery: Embedder | None,
    image: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    step: int,
    mapper: Mapper = one_by_one,
) -> Terms:
    """Update every trainee on one batch of augmented, colour-normalised pictures.

    Args:
        labels: the class of each picture; strangers have none but :func:`stranger_labels`, and come last. Only
            trainees that look at the gallery model see those.
        gallery: the frozen gallery model in evaluation mode, or its memory; its forward runs once however many
            trainees there are, and not at all where no trainee's loss needs it.
        step: of the phase, 0-based; decides the learning rate.
        mapper: how the trainees' own steps are gone through, see :func:`hetero.training.parallel.side_by_side`.
    """
    gallery_embedding = None
    if gallery is not None and any(trainee.loss.needs_gallery for trainee in trainees):
        with torch.no_grad():
            gallery_embedding = gallery(image)
    views = _Views(image)
    terms, _ = _students_step(trainees, gallery_embedding, views, labels, step=step, places=False, mapper=mapper)
    return terms


def joint_step(
    gallery: Trainee,
    students: Sequence[Trainee],
    image: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    pull: float,
    step: int,
    mapper: Mapper = one_by_one,
) -> Terms:
    """Update a gallery model that is still learning, and students that follow it, on one batch.

    The one training forward of the gallery model serves both: its own loss, and, detached, as what its students align
    to. Towards its students it moves by ``pull`` times the mean of its alignments to their (detached) embeddings;
    negative controls, and students whose embeddings are not numbers, have no say.

    Args:
        labels: as the gallery model learns them; classes from ``num_classes`` on are poses that its students do not
            have, and strangers to them.
    """
    embedding = gallery.embed(image)
    known = labels >= 0
    total, parts = gallery.loss(embedding[known], labels[known])
    # Beyond the strangers that were made of all poses of all classes, or a pose would share the label of its stranger.
    others = torch.where(labels < num_classes, labels, stranger_labels(POSES * num_classes + labels))
    views = _Views(image)
    terms, seen = _students_step(students, embedding.detach(), views, others, step=step, places=pull > 0, mapper=mapper)
    if seen:
        parts["pull"] = torch.stack([alignment_loss(embedding, one) for one in seen]).mean()
        total = total + pull * parts["pull"]
    gallery.update(total, step)
    return {gallery.name: _detached(total, parts)} | terms


def _students_step(
    trainees: Sequence[Trainee],
    gallery_embedding: Tensor | None,
    views: _Views,
    labels: Tensor,
    *,
    step: int,
    places: bool,
    mapper: Mapper,
) -> tuple[Terms, list[Tensor]]:
    """Their terms, and, if asked for ``places``, the detached embeddings of those that belong into the gallery's space.

    A trainee that sees classes alone rests where fewer than two pictures have one.
    """
    classed = labels >= 0
    count = int(classed.sum())
    first = slice(count) if bool(classed[:count].all()) else classed  # strangers mostly come last: no copy then
    views.prepare(trainee.side for trainee in trainees)

    def one(trainee: Trainee) -> tuple[dict[str, Tensor], Tensor | None] | None:
        image = views.at(trainee.side)
        if trainee.loss.needs_gallery:
            embedding = trainee.embed(image)
            total, parts = trainee.loss(embedding, labels, gallery_embedding)
        elif count < 2:  # batch normalisation has nothing to compare
            return None
        else:
            embedding = trainee.embed(image[first])
            total, parts = trainee.loss(embedding, labels[first])
        trainee.update(total, step)
        placed = places and trainee.loss.needs_gallery and trainee.loss.config.places
        if placed and bool(torch.isfinite(embedding).all()):
            return _detached(total, parts), embedding.detach()
        return _detached(total, parts), None

    stepped = [(trainee.name, found) for trainee, found in zip(trainees, mapper(one, trainees), strict=True) if found]
    terms = {name: parts for name, (parts, _) in stepped}
    return terms, [embedding for _, (_, embedding) in stepped if embedding is not None]


class _Views:
    """A batch at each size that a student takes, made once however many take it."""

    def __init__(self, image: Tensor) -> None:
        self._image, self._sides = image, {image.shape[3]: image}

    def prepare(self, sides: Iterable[int]) -> None:
        for side in sides:
            if side not in self._sides:
                smaller = interpolate(self._image, size=(side, side), mode="bilinear", antialias=True)
                self._sides[side] = smaller.contiguous(memory_format=torch.channels_last)

    def at(self, side: int) -> Tensor:
        return self._sides[side]


def _detached(total: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"total": total.detach()} | {key: part.detach() for key, part in parts.items()}

"""One training step: the gallery model's forward once, then every trainee's own step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetero.training.memory import Embedder
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
    learning_rate: float,
    autocast: torch.dtype | None = None,
) -> Terms:
    """Update every trainee on one batch of augmented, colour-normalised pictures.

    Args:
        labels: the class of each picture; strangers have none but :func:`stranger_labels`, and come last. Only
            trainees that align to the gallery model see those.
        gallery: the frozen gallery model in evaluation mode, or its memory; its forward runs once however many
            trainees there are, and not at all where no trainee's loss needs it.
        autocast: dtype of mixed precision on a GPU, None for full precision.
    """
    classed = int((labels >= 0).sum())
    with torch.autocast(image.device.type, dtype=autocast, enabled=autocast is not None):
        gallery_embedding = None
        if gallery is not None and any(trainee.loss.needs_gallery for trainee in trainees):
            with torch.no_grad():
                gallery_embedding = gallery(image).float()
        terms: Terms = {}
        for trainee in trainees:
            aligns = trainee.loss.needs_gallery
            seen = len(image) if aligns else classed
            embedding = trainee.network(image[:seen]).float()
            with torch.autocast(image.device.type, enabled=False):
                total, parts = trainee.loss(embedding, labels[:seen], gallery_embedding if aligns else None)
            trainee.update(total, learning_rate)
            terms[trainee.name] = {"total": total.detach()} | {key: part.detach() for key, part in parts.items()}
    return terms

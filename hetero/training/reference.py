"""What students may know of their gallery model, from one pass over the training pictures as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hetero.data.dataset import Dataset
from hetero.data.pixels import read_pixels
from hetero.losses.config import LossConfig
from hetero.losses.reference import GalleryReference, make_reference, match_classifier
from hetero.models.checkpoint import LoadedModel
from hetero.models.embed import embed

_BLOCK = 4096  # pictures decoded at a time


def gallery_reference(
    gallery: LoadedModel,
    losses: Sequence[LossConfig],
    dataset: Dataset,
    classes: tuple[str, ...],
    *,
    seed: int,
    device: torch.device,
) -> GalleryReference:
    """What the losses of all students need together, and no more: the pass is left out where none needs it.

    Args:
        classes: names of the students' classes, in the order of their labels.
    """
    classifier, known = None, None
    if any(loss.needs_classifier for loss in losses) and gallery.prototypes is not None:
        classifier, known = match_classifier(gallery.prototypes, gallery.card.classes, classes)
        classifier, known = classifier.to(device), known.to(device)
    embedding, labels = None, None
    if any(loss.needs_centres or loss.bank_size for loss in losses):
        indices = dataset.split("train")
        place = {name: row for row, name in enumerate(classes)}
        rows = [place[dataset.class_names[label]] for label in dataset.labels[indices]]
        labels = torch.tensor(rows, device=device)
        network = gallery.network.to(device)
        embedding = torch.cat(
            [
                torch.from_numpy(
                    embed(
                        network,
                        read_pixels(dataset, indices[start : start + _BLOCK], gallery.preprocess),
                        gallery.preprocess,
                        device=str(device),
                    )
                ).to(device)
                for start in range(0, len(indices), _BLOCK)
            ]
        )
    return make_reference(
        embedding,
        labels,
        num_classes=len(classes),
        classifier=classifier,
        known=known,
        centres=any(loss.needs_centres for loss in losses),
        bank_size=max((loss.bank_size for loss in losses), default=0),
        seed=seed,
    )

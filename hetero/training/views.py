"""From a batch of pixels to the views that train: colour-normalised, augmented, turned, and strangers behind them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetero.data.loader import Batch
from hetero.models.embed import colour_normalise
from hetero.preprocess import PreprocessSpec
from hetero.training.augment import POSES, augment
from hetero.training.augment import stranger_views as strangers_of
from hetero.training.augment import turned_classes as with_turned_classes
from hetero.training.config import AugmentConfig
from hetero.training.step import stranger_labels


def prepare(
    batch: Batch,
    unlabelled: Batch | None,
    spec: PreprocessSpec,
    changes: AugmentConfig,
    *,
    num_classes: int,
    turned_classes: float,
    stranger_views: bool,
    seed: int,
    view: int,
    device: torch.device,
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """The pictures of a step and their labels, a function of batch, seed and view alone.

    First come the batch's pictures, then a stranger made of each where ``stranger_views`` asks for it, then those of
    ``unlabelled``. Strangers and unlabelled pictures have negative labels, equal where they belong together; each
    unlabelled one is a class of its own, beyond the strangers of all poses.

    Args:
        turned_classes: share of the batch that becomes another pose of its class, with a class of its own.
        view: number of the augmentation; the same number, the same change.
    """
    image = augment(_normalised(batch, spec, device), changes, seed=seed, step=view)
    labels = torch.from_numpy(batch.labels).to(device)
    if turned_classes:
        image, labels = with_turned_classes(
            image, labels, share=turned_classes, num_classes=num_classes, seed=seed, step=view
        )
    parts, names = [image], [labels]
    if stranger_views:
        parts.append(strangers_of(image, labels, seed=seed, step=view))
        names.append(stranger_labels(labels))
    if unlabelled is not None:
        # a seed of their own, or each would be changed as the labelled picture at its place is
        parts.append(augment(_normalised(unlabelled, spec, device), changes, seed=seed + 1, step=view))
        names.append(stranger_labels(2 * POSES * num_classes + torch.arange(len(unlabelled.labels), device=device)))
    return (torch.cat(parts), torch.cat(names)) if len(parts) > 1 else (image, labels)


def _normalised(batch: Batch, spec: PreprocessSpec, device: torch.device) -> Tensor:
    return colour_normalise(torch.from_numpy(batch.pixels).to(device), spec)

"""``hetero index``: embed pictures with the gallery model and write the vectors as a gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetero.data.dataset import NO_GROUP, ROLE_BOTH, Dataset
from hetero.data.pixels import read_pixels, read_readable
from hetero.errors import DataError, MissingExtraError, SpaceMismatchError
from hetero.retrieval.gallery import GalleryRecord, Item, write_gallery

BLOCK = 4096  # pictures decoded and embedded at a time, so that a large gallery never lies in memory as pixels


def index_pictures(
    model: Path, dataset: Dataset, out: Path, *, split: str | None = None, device: str = "auto", skip_bad: bool = False
) -> tuple[GalleryRecord, tuple[str, ...]]:
    """Write a gallery of a dataset's pictures, embedded by the checkpoint at ``model``.

    Returns:
        The gallery's record, and a line for each picture left out with ``skip_bad``.

    Raises:
        CheckpointError: no such checkpoint. ImageError: a picture cannot be read, without ``skip_bad``.
        SpaceMismatchError: the model is a student: its gallery would not be the gallery model's.
    """
    try:
        from hetero.models.checkpoint import load_model
        from hetero.models.embed import embed
        from hetero.training.device import resolve_device
    except ImportError:
        raise MissingExtraError("hetero index", "torch", "train") from None

    loaded = load_model(model)
    if loaded.card.role == "compatible":
        raise SpaceMismatchError(
            f"{model} is a query model: it shares the gallery model's space but does not index galleries",
            got=f"role {loaded.card.role}",
            expected="role gallery",
            fix="index with the gallery model's checkpoint, e.g. runs/NAME/gallery",
        )
    target = str(resolve_device(device))
    network = loaded.network.to(target)
    indices = dataset.split(split)
    parts, kept, skipped = [], [], list(dataset.skipped)
    for start in range(0, len(indices), BLOCK):
        block = indices[start : start + BLOCK]
        if skip_bad:
            readable = read_readable(dataset, block, loaded.preprocess)
            pixels, block = readable.pixels, readable.indices
            skipped += readable.skipped
        else:
            pixels = read_pixels(dataset, block, loaded.preprocess)
        if len(block):
            parts.append(embed(network, pixels, loaded.preprocess, device=target))
            kept.append(block)
    if not parts:
        raise DataError(f"no picture of {dataset.name!r} can be read", fix="check the files listed with --json")
    record = write_gallery(
        out,
        np.concatenate(parts),
        [_item(dataset, int(index)) for index in np.concatenate(kept)],
        space_id=loaded.space.id,
        model_weights_sha256=loaded.card.weights_sha256,
        dataset=dataset.name,
    )
    return record, tuple(skipped)


def _item(dataset: Dataset, index: int) -> Item:
    label = int(dataset.labels[index])
    return Item(
        path=dataset.image_id(index),
        label=label,
        class_name=dataset.class_names[label],
        group=NO_GROUP if dataset.groups is None else int(dataset.groups[index]),
        role=ROLE_BOTH if dataset.roles is None else int(dataset.roles[index]),
    )

"""What is in a dataset: numbers for ``hetero data``, and a sheet of sample pictures for the eye."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hetero.atomic import write_bytes
from hetero.data.dataset import NO_GROUP, ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.data.pixels import read_pixels
from hetero.preprocess import PreprocessSpec

_GAP = 4  # pixels between the pictures of a sheet
_GAP_GREY = 128


def describe(dataset: Dataset) -> dict[str, Any]:
    """JSON-ready counts.

    Returns:
        ``name``; ``images`` and ``classes``: counts; ``images_per_class``: ``{min, median, max}``;
        ``pixels``: ``{height, width, channels}``, or None for files;
        ``splits``: by name ``{images, classes, images_per_class}``;
        ``unassigned``: the same for images in no split, or None;
        ``roles``: ``{both, query, gallery}``, or None; ``groups``: ``{count, images_without}``, or None;
        ``skipped``: one line for each picture left out.
    """
    assigned = np.zeros(len(dataset), bool)
    for indices in dataset.splits.values():
        assigned[indices] = True
    rest = np.flatnonzero(~assigned)
    return {
        "name": dataset.name,
        **_counts(dataset.labels),
        "pixels": _pixels(dataset),
        "splits": {name: _counts(dataset.labels[indices]) for name, indices in dataset.splits.items()},
        "unassigned": _counts(dataset.labels[rest]) if len(rest) else None,
        "roles": _roles(dataset.roles),
        "groups": _groups(dataset.groups),
        "skipped": list(dataset.skipped),
    }


def contact_sheet(
    dataset: Dataset,
    split: str | None,
    path: Path,
    seed: int,
    *,
    num_classes: int = 12,
    per_class: int = 10,
    size: int = 64,
) -> tuple[str, ...]:
    """Save a PNG of random classes of a split, a row each; return the class names, top to bottom.

    Args:
        dataset, split: what to show; None: all.
        path: the PNG file, replaced in one step.
        seed: of the choice of classes and pictures.
        num_classes, per_class: at most so many rows and pictures in a row.
        size: side of each picture, pixels; the aspect ratio is kept.

    Raises:
        DataError: no such split.
        ImageError: a picture cannot be read.
        StorageError: the file cannot be written.
    """
    indices = dataset.split(split)
    labels = dataset.labels[indices]
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))[:num_classes]
    rows = [rng.permutation(indices[labels == label])[:per_class] for label in classes]
    spec = PreprocessSpec(height=size, width=size, channels=3, resize="pad", background=(_GAP_GREY,) * 3)
    cell = size + _GAP
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * cell + _GAP, columns * cell + _GAP, 3), _GAP_GREY, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(read_pixels(dataset, row, spec)):
            top, left = i * cell + _GAP, j * cell + _GAP
            sheet[top : top + size, left : left + size] = picture
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, format="PNG")
    write_bytes(path, stream.getvalue())
    return tuple(dataset.class_names[label] for label in classes.tolist())


def _counts(labels: np.ndarray) -> dict[str, Any]:
    _, counts = np.unique(labels, return_counts=True)
    return {
        "images": len(labels),
        "classes": len(counts),
        "images_per_class": {
            "min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max()),
        },
    }  # fmt: skip


def _pixels(dataset: Dataset) -> dict[str, int] | None:
    if not isinstance(dataset.images, np.ndarray):
        return None
    _, height, width, *channels = dataset.images.shape
    return {"height": height, "width": width, "channels": channels[0] if channels else 1}


def _roles(roles: np.ndarray | None) -> dict[str, int] | None:
    if roles is None:
        return None
    numbers = {"both": ROLE_BOTH, "query": ROLE_QUERY, "gallery": ROLE_GALLERY}
    return {name: int((roles == number).sum()) for name, number in numbers.items()}


def _groups(groups: np.ndarray | None) -> dict[str, int] | None:
    if groups is None:
        return None
    grouped = groups[groups != NO_GROUP]
    return {"count": len(np.unique(grouped)), "images_without": len(groups) - len(grouped)}

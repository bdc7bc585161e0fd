"""Writing a dataset's pictures as files with a CSV manifest: what a phone, another tool or a test then reads."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from hetero import atomic
from hetero.data.dataset import NO_GROUP, ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.errors import DataError

_ROLES = {ROLE_BOTH: "both", ROLE_QUERY: "query", ROLE_GALLERY: "gallery"}


def save_pictures(dataset: Dataset, out: Path, *, split: str | None = None) -> Path:
    """Write PNG files and ``manifest.csv`` into a new directory; returns the manifest's path.

    Args:
        split: only its pictures; None writes every split, or, of data without splits, all pictures.

    Raises:
        DataError: the pictures are files already.
    """
    if not isinstance(dataset.images, np.ndarray):
        raise DataError(f"the pictures of {dataset.name!r} are files already", fix="use them where they are")
    names: list[str | None] = [split] if split is not None or not dataset.splits else list(dataset.splits)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "label", "role", "group", *([] if names == [None] else ["split"])])
    with atomic.directory(out, marker="manifest.csv") as folder:
        for name in names:
            for index in dataset.split(name).tolist():
                file = f"{index:06d}.png"
                Image.fromarray(dataset.images[index]).save(folder / file)
                role = ROLE_BOTH if dataset.roles is None else int(dataset.roles[index])
                group = NO_GROUP if dataset.groups is None else int(dataset.groups[index])
                label = dataset.class_names[int(dataset.labels[index])]
                row = [file, label, _ROLES[role], "" if group == NO_GROUP else group]
                rows.writerow(row if name is None else [*row, name])
        (folder / "manifest.csv").write_text(table.getvalue(), encoding="utf-8")
    return out / "manifest.csv"

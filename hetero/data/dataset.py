"""The one record every reader returns and every other room reads: pictures, labels, class-disjoint splits, roles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hetero.errors import DataError

ROLE_BOTH, ROLE_QUERY, ROLE_GALLERY = 0, 1, 2
NO_GROUP = -1


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures, checked once when made and immutable afterwards.

    Attributes:
        name: for messages and reports.
        images: ``uint8 [n, h, w]`` or ``[n, h, w, 3]``, or ``n`` file paths.
        labels: ``int64 [n]``, each an index into ``class_names``.
        class_names: one name a class.
        splits: name (``train``, ``val``, ``test``) to ``int64`` image indices; no class is in two splits.
        roles: ``int8 [n]``: ``ROLE_BOTH``, ``ROLE_QUERY`` or ``ROLE_GALLERY``; None means both everywhere.
        groups: ``int64 [n]``: images of one group (a burst, a drawer, a camera) never match each other;
            ``NO_GROUP`` or None means no exclusion.
        boxes: ``int32 [n, 4]``: x0, y0, x1, y1 of each image's object in its file, pixels; None means whole images.

    Raises:
        DataError: shapes that disagree, a label without a class, overlapping splits, an index out of range.
    """

    name: str
    images: np.ndarray | tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: Mapping[str, np.ndarray]
    roles: np.ndarray | None = None
    groups: np.ndarray | None = None
    boxes: np.ndarray | None = None
    skipped: tuple[str, ...] = field(default=())
    """One line for each picture left out with ``skip_bad``: path and reason."""

    def __post_init__(self) -> None:
        _check(self)
        for array in (self.images, self.labels, self.roles, self.groups, self.boxes):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)
        for indices in self.splits.values():
            indices.setflags(write=False)
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether ``images`` are pixels rather than paths."""
        return isinstance(self.images, np.ndarray)

    def split(self, name: str) -> np.ndarray:
        """Image indices of a split, ``int64 [m]``; a missing split is a :class:`DataError` that lists the others."""
        try:
            return self.splits[name]
        except KeyError:
            raise DataError(
                f"dataset {self.name!r} has no split {name!r}",
                expected=f"one of {', '.join(self.splits) or 'none'}",
                fix="name one of these splits, or add the split to the data section of the config",
            ) from None

    def image_id(self, index: int) -> str:
        """What to call one picture in a message or a table: its path, or ``name[index]``."""
        return str(self.images[index]) if not self.in_memory else f"{self.name}[{index}]"


def digest(dataset: Dataset) -> str:
    """SHA-256 (hex) of labels, class names, splits and pictures: pixels, or the names and sizes of files.

    Files are not read: a picture replaced by one of the same length goes unnoticed.
    """
    found = hashlib.sha256()
    found.update(json.dumps([dataset.class_names, sorted(dataset.splits)]).encode())
    found.update(np.ascontiguousarray(dataset.labels, dtype=np.int64).tobytes())
    for split in sorted(dataset.splits):
        found.update(np.ascontiguousarray(dataset.splits[split], dtype=np.int64).tobytes())
    if isinstance(dataset.images, np.ndarray):
        found.update(repr(dataset.images.shape).encode() + np.ascontiguousarray(dataset.images).tobytes())
    else:
        sizes = [(path.name, path.stat().st_size if path.is_file() else -1) for path in dataset.images]
        found.update(json.dumps(sizes).encode())
    return found.hexdigest()


def _check(dataset: Dataset) -> None:
    name, total = dataset.name, len(dataset.labels)
    labels = dataset.labels
    if len(dataset.images) != total:
        raise DataError(
            f"dataset {name!r} has images without labels or labels without images",
            got=f"{len(dataset.images)} images and {total} labels",
            expected="one label an image",
            fix="write one label for every image",
        )
    if isinstance(dataset.images, np.ndarray) and (
        dataset.images.dtype != np.uint8
        or dataset.images.ndim not in (3, 4)
        or (dataset.images.ndim == 4 and dataset.images.shape[3] != 3)
    ):
        raise DataError(
            f"dataset {name!r} has images of an unsupported layout",
            got=f"{dataset.images.dtype} {list(dataset.images.shape)}",
            expected="uint8 [n, h, w] or uint8 [n, h, w, 3]",
            fix="convert the images to 8 bits, channels last",
        )
    if total == 0:
        raise DataError(f"dataset {name!r} is empty", fix="check the path and the file endings")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"dataset {name!r} has labels of a wrong type",
            got=f"{labels.dtype} {list(labels.shape)}",
            expected="integers [n]",
        )
    if labels.min() < 0 or labels.max() >= len(dataset.class_names):
        raise DataError(
            f"dataset {name!r} has a label without a class name",
            got=f"labels {labels.min()}..{labels.max()}",
            expected=f"0..{len(dataset.class_names) - 1}",
            fix="add the missing class names or correct the labels",
        )
    for key, array in (("roles", dataset.roles), ("groups", dataset.groups)):
        if array is not None and array.shape != labels.shape:
            raise DataError(
                f"dataset {name!r}: {key} do not fit the images",
                got=list(array.shape),
                expected=list(labels.shape),
            )
    boxes = dataset.boxes
    if boxes is not None and (
        boxes.shape != (total, 4) or boxes.dtype != np.int32 or (boxes[:, 2:] <= boxes[:, :2]).any()
    ):
        raise DataError(
            f"dataset {name!r} has boxes that do not fit the images or hold no pixel",
            got=f"{boxes.dtype} {list(boxes.shape)}",
            expected=f"int32 [{total}, 4], x0 < x1 and y0 < y1",
        )
    _check_splits(dataset)


def _check_splits(dataset: Dataset) -> None:
    owner: dict[int, str] = {}
    for split, indices in dataset.splits.items():
        if len(indices) == 0:
            raise DataError(
                f"split {split!r} of dataset {dataset.name!r} is empty",
                fix="remove the split or give it images",
            )
        if indices.min() < 0 or indices.max() >= len(dataset):
            raise DataError(
                f"split {split!r} of dataset {dataset.name!r} points outside the images",
                got=f"{indices.min()}..{indices.max()}",
                expected=f"0..{len(dataset) - 1}",
            )
        if len(np.unique(indices)) != len(indices):
            raise DataError(f"split {split!r} of dataset {dataset.name!r} names an image twice")
        for label in np.unique(dataset.labels[indices]).tolist():
            if label in owner:
                raise DataError(
                    f"splits {owner[label]!r} and {split!r} of dataset {dataset.name!r} share the class "
                    f"{dataset.class_names[label]!r}",
                    expected="class-disjoint splits, so that test classes are never trained on",
                    fix="put every image of a class into one split",
                )
            owner[label] = split

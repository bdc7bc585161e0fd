"""The one record every reader returns and every other room reads: pictures, labels, class-disjoint splits, roles."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hetero.errors import DataError

ROLE_BOTH, ROLE_QUERY, ROLE_GALLERY = 0, 1, 2
NO_GROUP = -1
_BOX_IN_ID = re.compile(r"(.*)#(-?\d+),(-?\d+),(\d+),(\d+)", re.DOTALL)


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
        boxes: ``int32 [n, 4]``: left, top, right, bottom of the part of an upright picture that counts, in its
            pixels, right and bottom excluded; None means whole pictures. Only of files: an array can be cut itself.
        inverted: each level v of a file is read as 255 − v, so that dark ink on white becomes bright on dark.

    Raises:
        DataError: shapes that disagree, a label without a class, overlapping splits, an index out of range, an
            empty box, boxes or inversion of pixels in memory.
    """

    name: str
    images: np.ndarray | tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: Mapping[str, np.ndarray]
    roles: np.ndarray | None = None
    groups: np.ndarray | None = None
    skipped: tuple[str, ...] = field(default=())
    """One line for each picture left out with ``skip_bad``: path and reason."""
    boxes: np.ndarray | None = None
    inverted: bool = False

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

    @property
    def plain_files(self) -> bool:
        """Whether every picture is a file read as it stands: neither cut nor inverted."""
        return not self.in_memory and self.boxes is None and not self.inverted

    def split(self, name: str | None) -> np.ndarray:
        """Image indices of a split, ``int64 [m]``, or with None of all images.

        Raises:
            DataError: there is no such split; lists the others.
        """
        if name is None:
            return np.arange(len(self))
        try:
            return self.splits[name]
        except KeyError:
            raise DataError(
                f"dataset {self.name!r} has no split {name!r}",
                expected=f"one of {', '.join(self.splits) or 'none'}",
                fix="name one of these splits, or add the split to the data section of the config",
            ) from None

    def image_id(self, index: int) -> str:
        """What to call one picture in messages and tables: ``path``, ``path#left,top,right,bottom``, ``name[index]``.

        A picture may show several things, each in a box of its own; :func:`path_and_box` takes such a name apart.
        """
        if self.in_memory:
            return f"{self.name}[{index}]"
        box = "" if self.boxes is None else "#" + ",".join(str(edge) for edge in self.boxes[index].tolist())
        return f"{self.images[index]}{box}"


def path_and_box(image_id: str) -> tuple[Path, tuple[int, int, int, int] | None]:
    """The file and the box (None: the whole picture) of a picture in a file, from its :meth:`Dataset.image_id`."""
    found = _BOX_IN_ID.fullmatch(image_id)
    if found is None:
        return Path(image_id), None
    left, top, right, bottom = (int(edge) for edge in found.groups()[1:])
    return Path(found[1]), (left, top, right, bottom)


def digest(dataset: Dataset) -> str:
    """SHA-256 (hex) of labels, class names, splits and pictures: pixels, or names and sizes of files, boxes, inversion.

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
    if dataset.boxes is not None:
        found.update(b"boxes" + np.ascontiguousarray(dataset.boxes, dtype="<i4").tobytes())
    if dataset.inverted:
        found.update(b"inverted")
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
    _check_reading(dataset)
    _check_splits(dataset)


def _check_reading(dataset: Dataset) -> None:
    name, boxes = dataset.name, dataset.boxes
    if dataset.in_memory and (boxes is not None or dataset.inverted):
        raise DataError(
            f"dataset {name!r} has pixels in memory and boxes or inversion, which are for files",
            fix="cut or invert the array itself",
        )
    if boxes is None:
        return
    if boxes.dtype != np.int32 or boxes.shape != (len(dataset), 4):
        raise DataError(
            f"dataset {name!r}: boxes do not fit the images",
            got=f"{boxes.dtype} {list(boxes.shape)}",
            expected=f"int32 [{len(dataset)}, 4]",
        )
    bad = np.flatnonzero((boxes[:, :2].clip(min=0) >= boxes[:, 2:]).any(1))  # detectors' boxes may begin before 0
    if len(bad):
        raise DataError(
            f"dataset {name!r}: the box of {dataset.images[bad[0]]} holds no pixel",
            got=boxes[bad[0]].tolist(),
            expected="left < right, top < bottom, and both of the latter above 0",
            fix="correct the box",
        )


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

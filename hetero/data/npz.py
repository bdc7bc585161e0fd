"""Reader for one ``.npz`` file that holds pixels, labels, optionally class names, splits and a group key."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hetero.data.dataset import Dataset
from hetero.data.draft import Draft, finish
from hetero.data.splits import SPLIT_NAMES, SplitConfig
from hetero.errors import DataError, nearest

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    MemoryError,
    NotImplementedError,
)
"""What numpy and zipfile raise on truncated, foreign or forged files."""


class NpzConfig(BaseModel):
    """An npz file with the arrays documented in docs/data.md. Pickled (object) arrays are never loaded.

    Attributes:
        path: the file.
        groups_key: array of integers ``[n]``: images with the same non-negative value never match each other.
        split: how to make splits, for a file without ``train``, ``val`` and ``test``.
        val_classes: hold the last so many train classes out as ``val`` (0: none).
        min_images_per_class: fewer is an error, or the class is left out with ``drop_small_classes``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["npz"] = "npz"
    path: Path
    groups_key: str | None = None
    split: SplitConfig | None = None
    val_classes: int = Field(default=0, ge=0)
    min_images_per_class: int = Field(default=2, ge=1)
    drop_small_classes: bool = False


def read_npz(config: NpzConfig) -> Dataset:
    """Read the whole file into memory and check it.

    Raises:
        DataError: no such file, damaged, pickled, an array missing or of a wrong shape, a bad split or class.
        ConfigError: ``split`` together with splits in the file.
    """
    arrays = _Arrays(config.path)
    images = arrays.required("images")
    labels = _integers(arrays.required("labels"), "labels", config.path)
    if images.ndim == 0 or len(images) != len(labels):
        raise DataError(
            f"{config.path}: images without labels or labels without images",
            got=f"images {list(images.shape)} and labels {list(labels.shape)}",
            expected="one label an image",
            fix="write one label for every image",
        )
    if len(labels) and labels.min() < 0:
        raise DataError(
            f"{config.path}: array 'labels' has a negative label",
            got=int(labels.min()),
            expected="0 or more",
            fix="leave unlabelled images out of the file",
        )
    labels, class_names = _classes(labels, arrays, config.path)
    splits = {
        name: _split_indices(arrays.required(name), name, len(labels), config.path)
        for name in SPLIT_NAMES
        if name in arrays.names
    }
    groups = None
    if config.groups_key is not None:
        groups = np.maximum(_integers(arrays.required(config.groups_key), config.groups_key, config.path), -1)
        if len(groups) != len(labels):
            raise DataError(
                f"{config.path}: array {config.groups_key!r} (groups_key) does not fit the images",
                got=f"{len(groups)} values",
                expected=f"{len(labels)}",
                fix="name an array with one value an image",
            )
    draft = Draft(config.path.stem, images, labels, class_names, splits=splits or None, groups=groups)
    return finish(
        draft,
        split=config.split,
        val_classes=config.val_classes,
        min_images_per_class=config.min_images_per_class,
        drop_small_classes=config.drop_small_classes,
    )


class _Arrays:
    """The arrays of one file, every failure to read one a DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"no such file: {path}", fix="correct data.path in the config")
        try:
            loaded = np.load(path, allow_pickle=False)
        except _DAMAGED as error:
            raise self._damaged(error) from error
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(
                f"{path} is a single array, not an npz file",
                fix="write it with numpy.savez(path, images=..., labels=...)",
            )
        self._file = loaded
        self.names = tuple(loaded.files)

    def required(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise DataError(
                f"{self.path} has no array {name!r}",
                expected=nearest(name, self.names) if self.names else None,
                fix=f"add the array {name!r} with numpy.savez, or correct its name",
            )
        try:
            array: np.ndarray = self._file[name]
        except _DAMAGED as error:
            raise self._damaged(error, name) from error
        return array

    def _damaged(self, error: BaseException, name: str | None = None) -> DataError:
        subject = f"array {name!r} of {self.path}" if name else f"{self.path}"
        if "pickle" in str(error) and zipfile.is_zipfile(self.path):
            return DataError(
                f"{subject} holds pickled Python objects, which could run any code and are never loaded",
                fix="save plain numbers or strings (array.astype(str)), not dtype=object",
            )
        reason = "not an npz file" if "pickle" in str(error) else f"{type(error).__name__}: {error}"
        return DataError(f"{subject} cannot be read", got=reason, fix="copy or download the file again")


def _integers(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: array {name!r} has a wrong type",
            got=f"{array.dtype} {list(array.shape)}",
            expected="integers [n]",
            fix="save it as numpy.int64",
        )
    return array.astype(np.int64)


def _classes(labels: np.ndarray, arrays: _Arrays, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names; without the array ``classes`` the label values themselves are the names."""
    if "classes" not in arrays.names:
        values, compact = np.unique(labels, return_inverse=True)
        return compact.reshape(-1).astype(np.int64), tuple(str(value) for value in values.tolist())
    classes = arrays.required("classes")
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise DataError(
            f"{path}: array 'classes' has a wrong type",
            got=f"{classes.dtype} {list(classes.shape)}",
            expected="strings [number of classes]",
            fix="save numpy.array(list_of_names)",
        )
    if len(labels) and labels.max() >= len(classes):
        raise DataError(
            f"{path}: a label has no class name",
            got=f"label {labels.max()}",
            expected=f"0..{len(classes) - 1}",
            fix="add the missing names to 'classes' or correct the labels",
        )
    return labels, tuple(classes.tolist())


def _split_indices(array: np.ndarray, name: str, total: int, path: Path) -> np.ndarray:
    """Indices of a split given as integers or as a mask ``bool [n]``."""
    if array.dtype == np.bool_ and array.shape == (total,):
        return np.flatnonzero(array)
    indices = _integers(array, name, path)
    if len(indices) and (indices.min() < 0 or indices.max() >= total):
        raise DataError(
            f"{path}: split {name!r} points outside the images",
            got=f"{indices.min()}..{indices.max()}",
            expected=f"0..{total - 1}",
            fix="write image indices counted from 0",
        )
    return indices

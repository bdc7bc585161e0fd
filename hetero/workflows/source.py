"""What a person may point a command at: a folder of pictures, a CSV manifest, an npz file or a run config."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hetero.config import load_config
from hetero.data.csv import CsvConfig
from hetero.data.dataset import Dataset
from hetero.data.files import is_picture
from hetero.data.folder import FolderConfig
from hetero.data.npz import NpzConfig
from hetero.data.open import open_dataset
from hetero.data.splits import SPLIT_NAMES, SplitConfig
from hetero.errors import ConfigError, DataError

_EVERYTHING = SplitConfig(val_fraction=0, test_fraction=0)


def open_source(source: Path, overrides: Sequence[str] = (), *, skip_bad: bool = False) -> Dataset:
    """The dataset behind a path.

    A folder of pictures without sub-folders is one class, ``unlabelled``. Classes of a single picture are welcome:
    a gallery is searched, not trained on. Pictures that nobody divided are in no split.

    Args:
        overrides: ``key.path=value`` of a run config. skip_bad: list unreadable pictures instead of failing.

    Raises:
        ConfigError: a path that is none of these. DataError: as the readers say.
    """
    if source.suffix in (".yaml", ".yml"):
        config = load_config(source, overrides).data
        if skip_bad and "skip_bad" in type(config).model_fields:
            config = config.model_copy(update={"skip_bad": True})
        return open_dataset(config)
    if overrides:
        raise ConfigError("--set needs a run config", got=str(source), expected="a .yaml file")
    if source.is_dir():
        loose = sorted(path for path in source.iterdir() if path.is_file() and is_picture(path))
        if loose and not any(path.is_dir() for path in source.iterdir()):
            return Dataset(source.name, tuple(loose), np.zeros(len(loose), np.int64), ("unlabelled",), {})
        own = any(path.name in SPLIT_NAMES for path in source.iterdir())
        split = None if own else _EVERYTHING
        return _undivided(FolderConfig(path=source, split=split, min_images_per_class=1, skip_bad=skip_bad))
    if source.suffix == ".csv":
        split = None if "split" in _header(source) else _EVERYTHING
        return _undivided(CsvConfig(path=source, split=split, min_images_per_class=1, skip_bad=skip_bad))
    if source.suffix != ".npz":
        raise DataError(
            f"{source} is no source of pictures",
            expected="a folder of images, a .csv manifest, an .npz file or a .yaml run config",
            fix="check the path",
        )
    split = None if _has_splits(source) else _EVERYTHING
    return _undivided(NpzConfig(path=source, split=split, min_images_per_class=1))


def _undivided(config: FolderConfig | CsvConfig | NpzConfig) -> Dataset:
    """The dataset, without the split that a reader makes of pictures which nobody divided."""
    dataset = open_dataset(config)
    return dataset if config.split is None else replace(dataset, splits={})


def _has_splits(source: Path) -> bool:
    try:
        with zipfile.ZipFile(source) as file:
            return any(f"{name}.npy" in file.namelist() for name in SPLIT_NAMES)
    except (OSError, zipfile.BadZipFile):
        return False  # the reader says what is wrong


def _header(source: Path) -> list[str]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []  # the reader says what is wrong


def split_to_search(dataset: Dataset, *, fix: str) -> str | None:
    """The split whose pictures are meant to search: the one that is not ``train``; None of data without splits.

    Raises:
        ConfigError: there are several, or only ``train``.
    """
    others = [name for name in dataset.splits if name != "train"]
    if not dataset.splits or len(others) == 1:
        return others[0] if others else None
    raise ConfigError(
        f"{dataset.name} has not one split that is to be searched",
        got=", ".join(dataset.splits),
        expected="train, and one of classes that were never trained on",
        fix=fix,
    )

"""Pictures that nobody sorted into classes: what a phone's gallery is, to train students on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetero.data.dataset import Dataset
from hetero.data.files import is_picture, unusable, visible_files
from hetero.errors import DataError


def read_unlabelled(path: Path) -> Dataset:
    """All pictures under a folder, at any depth, in order of their names, as one class and in no split.

    Nothing is decoded yet.

    Raises:
        DataError: no such folder, or no picture in it. ImageError: a picture of an unsupported type.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder of unlabelled pictures at {path}", fix="check student_training.unlabelled")
    found = sorted(file for file in visible_files(path) if is_picture(file))
    if not found:
        raise DataError(f"there are no pictures in {path}", fix="check student_training.unlabelled")
    unusable(found, skip_bad=False)
    return Dataset(path.name, tuple(found), np.zeros(len(found), np.int64), ("unlabelled",), {})

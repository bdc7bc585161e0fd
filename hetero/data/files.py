"""Which files are pictures, and which of them cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hetero.data.pixels import find_unreadable
from hetero.errors import ImageError

IMAGE_ENDINGS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".pgm",
    ".ppm",
    ".pnm",
)
UNSUPPORTED_ENDINGS = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".svg")
"""Pictures that are not decoded here: refused rather than overlooked. Any other ending is not a picture."""


def is_picture(path: Path) -> bool:
    """Whether the name says that the file is a picture, readable here or not; hidden files never are."""
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_ENDINGS + UNSUPPORTED_ENDINGS


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file at any depth, but for what lies in hidden folders (thumbnails, version control).

    Links to folders are followed, and each folder is gone through once.
    """
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names)


def unusable(paths: Sequence[Path], *, skip_bad: bool, boxes: np.ndarray | None = None) -> dict[int, str]:
    """Position in ``paths`` to a line (path and reason), for every file to be left out.

    Without ``skip_bad`` nothing is decoded and nothing left out; with it every file is decoded once, and must
    hold a part of its box where there are ``boxes`` (``int32 [n, 4]``).

    Raises:
        ImageError: without ``skip_bad``, a picture of an unsupported type.
    """
    problems: dict[int, str] = {}
    for i, path in enumerate(paths):
        if path.suffix.lower() not in UNSUPPORTED_ENDINGS:
            continue
        if not skip_bad:
            raise ImageError(
                f"{path}: pictures of type {path.suffix} are not supported",
                expected=", ".join(IMAGE_ENDINGS),
                fix="convert it to PNG or JPEG, or leave such files out with skip_bad: true",
            )
        problems[i] = f"{path}: pictures of type {path.suffix} are not supported"
    if skip_bad:
        rest = [i for i in range(len(paths)) if i not in problems]
        for position, reason in find_unreadable(
            [paths[i] for i in rest], None if boxes is None else boxes[rest]
        ).items():
            problems[rest[position]] = reason
    return problems

"""Small image folders on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[[Mapping[str, int]], Path]
WritePicture = Callable[..., None]


def write_picture(path: Path, seed: int, *, size: tuple[int, int] = (12, 9)) -> None:
    """A random RGB picture of ``size`` (height, width) as PNG or what the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write ``{"cat": 3, "train/dog": 2}`` as folders of so many numbered PNG files; returns the top folder."""

    def make(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "photos"
        for f, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write_picture(root / folder / f"{i}.png", 100 * f + i)
        return root

    return make


@pytest.fixture
def picture() -> WritePicture:
    """Writes one random picture: ``picture(path, seed, size=(height, width))``."""
    return write_picture

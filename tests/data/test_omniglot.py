from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data.omniglot import OmniglotConfig, read_omniglot
from hetero.data.open import open_dataset, parse_data_config
from hetero.data.pixels import read_pixels
from hetero.errors import DataError
from hetero.preprocess import PreprocessSpec

CHARACTERS = {  # folder: number in the file names, which goes on over all alphabets
    "images_background/Greek/character01": 394,
    "images_background/Greek/character02": 395,
    "images_background/Latin/character01": 683,
    "images_evaluation/Oriya/character01": 1300,
    "images_evaluation/Oriya/character02": 1301,
}
DRAWERS = (1, 2, 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Black strokes of one bit on white, 105×105, as published."""
    for folder, number in CHARACTERS.items():
        (tmp_path / folder).mkdir(parents=True)
        for drawer in DRAWERS:
            stroke = np.ones((105, 105), bool)
            stroke[drawer : drawer + 10, 20:30] = False
            Image.fromarray(stroke).save(tmp_path / folder / f"{number:04d}_{drawer:02d}.png")
    (tmp_path / "images_background" / ".DS_Store").touch()
    (tmp_path / "strokes_background").mkdir()
    return tmp_path


def test_alphabets_become_splits_and_characters_classes(root: Path) -> None:
    found = read_omniglot(OmniglotConfig(path=root))
    assert found.name == "omniglot"
    assert found.class_names == (
        "Greek/character01",
        "Greek/character02",
        "Latin/character01",
        "Oriya/character01",
        "Oriya/character02",
    )
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert found.split("train").tolist() == list(range(9))
    assert found.split("test").tolist() == list(range(9, 15))
    assert found.images[4] == root / "images_background/Greek/character02/0395_02.png"
    assert found.images[14] == root / "images_evaluation/Oriya/character02/1301_20.png"
    assert found.roles is None
    assert found.groups is None
    assert found.boxes is None


def test_one_hand_in_one_alphabet_is_a_group_on_request(root: Path) -> None:
    groups = read_omniglot(OmniglotConfig(path=root, groups_key="drawer")).groups
    assert groups is not None
    greek, latin, oriya = groups[:6].tolist(), groups[6:9].tolist(), groups[9:].tolist()
    assert greek[:3] == greek[3:]
    assert oriya[:3] == oriya[3:]
    assert len({*greek, *latin, *oriya}) == 9  # drawer 1 of Greek is not drawer 1 of Latin


def test_ink_is_bright_unless_told_otherwise(root: Path) -> None:
    spec = PreprocessSpec(height=105, width=105, channels=1)
    bright = read_pixels(read_omniglot(OmniglotConfig(path=root)), [1], spec)[0, :, :, 0]
    dark = read_pixels(read_omniglot(OmniglotConfig(path=root, invert=False)), [1], spec)[0, :, :, 0]
    expected = np.zeros((105, 105), np.uint8)
    expected[2:12, 20:30] = 255
    assert np.array_equal(bright, expected)
    assert np.array_equal(dark, 255 - expected)


def test_last_characters_become_val(root: Path) -> None:
    found = read_omniglot(OmniglotConfig(path=root, val_classes=1))
    assert found.split("val").tolist() == [6, 7, 8]


def test_it_opens_by_its_format(root: Path) -> None:
    config = parse_data_config({"format": "omniglot", "path": str(root)})
    assert config == OmniglotConfig(path=root)
    assert len(open_dataset(config)) == 15


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: _remove(r / "images_evaluation"),
            r"no such folder: .*images_evaluation; expected .* images_eval.*zip",
        ),
        (
            lambda r: _remove(r / "images_background/Latin/character01"),
            r"folder .*Latin is empty; .*folder for each char",
        ),
        (lambda r: [p.unlink() for p in (r / "images_background/Latin/character01").iterdir()], "01 has no picture"),
        (
            lambda r: (r / "images_background/Latin/character01/0683_01.png").rename(
                r / "images_background/Latin/character01/a.png"
            ),
            r"file name of .*a\.png does not tell its drawer; got 'a\.png'",
        ),
        (
            lambda r: (r / "images_evaluation/Oriya").rename(r / "images_evaluation/Greek"),
            r"class 'Greek/character01' is in train and in test; got folder .*images_background/Greek/character01 and",
        ),
        (
            lambda r: [(r / f"images_background/Latin/character01/0683_{d}.png").unlink() for d in ("01", "02")],
            "class 'Latin/character01' .* has one image",
        ),
    ],
)
def test_what_is_not_as_published_is_refused(root: Path, change: Callable[[Path], object], message: str) -> None:
    change(root)
    with pytest.raises(DataError, match=message):
        read_omniglot(OmniglotConfig(path=root))

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data.dataset import Dataset
from hetero.data.describe import contact_sheet, describe
from hetero.data.folder import FolderConfig, read_folder
from hetero.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def dataset() -> Dataset:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3])
    images = np.repeat(labels[:, None, None] * 60 + 10, 6, 1).repeat(9, 2).astype(np.uint8)
    return Dataset(
        "toy",
        images,
        labels,
        ("a", "b", "c", "d"),
        {"train": np.arange(5), "test": np.array([5, 6, 7, 8])},
        roles=np.array([0, 1, 2, 0, 0, 1, 2, 2, 2, 0, 0], np.int8),
        groups=np.array([4, 4, 7, -1, -1, 4, 7, 7, 9, -1, 9]),
        skipped=("x.png: empty",),
    )


def test_describe_counts(dataset: Dataset) -> None:
    found = describe(dataset)
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "name": "toy",
        "images": 11,
        "classes": 4,
        "images_per_class": {"min": 2, "median": 2.5, "max": 4},
        "pixels": {"height": 6, "width": 9, "channels": 1},
        "splits": {
            "train": {"images": 5, "classes": 2, "images_per_class": {"min": 2, "median": 2.5, "max": 3}},
            "test": {"images": 4, "classes": 1, "images_per_class": {"min": 4, "median": 4.0, "max": 4}},
        },
        "unassigned": {"images": 2, "classes": 1, "images_per_class": {"min": 2, "median": 2.0, "max": 2}},
        "roles": {"both": 5, "query": 2, "gallery": 4},
        "groups": {"count": 3, "images_without": 3},
        "skipped": ["x.png: empty"],
    }


def test_describe_plain_folder(make_folder: MakeFolder) -> None:
    found = describe(read_folder(FolderConfig(path=make_folder({"train/a": 2, "test/b": 3}))))
    assert (found["pixels"], found["roles"], found["groups"], found["unassigned"]) == (None, None, None, None)
    assert found["skipped"] == []


def test_describe_colour() -> None:
    colour = Dataset("c", np.zeros((2, 4, 5, 3), np.uint8), np.zeros(2, np.int64), ("a",), {})
    assert describe(colour)["pixels"] == {"height": 4, "width": 5, "channels": 3}


def test_contact_sheet_shows_one_class_a_row(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    names = contact_sheet(dataset, "train", path, 0, size=18, per_class=2)
    assert sorted(names) == ["a", "b"]
    with Image.open(path) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 22 + 4, 2 * 22 + 4, 3)
    for row, name in enumerate(names):
        for column in range(2):  # the middle of each picture
            assert sheet[4 + 22 * row + 9, 4 + 22 * column + 9].tolist() == [{"a": 10, "b": 70}[name]] * 3


def test_contact_sheet_depends_on_the_seed_only(dataset: Dataset, tmp_path: Path) -> None:
    sheets = []
    for i, seed in enumerate([1, 1, 2, 3, 4]):
        names = contact_sheet(dataset, "train", tmp_path / f"{i}.png", seed, num_classes=1, size=9)
        sheets.append((names, (tmp_path / f"{i}.png").read_bytes()))
    assert sheets[0] == sheets[1]
    assert len({names for names, _ in sheets}) == 2


def test_contact_sheet_of_a_missing_split_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'val'"):
        contact_sheet(dataset, "val", tmp_path / "sheet.png", 0)
    assert not (tmp_path / "sheet.png").exists()

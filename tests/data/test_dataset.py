from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.data.dataset import Dataset
from hetero.errors import DataError


def dataset(**changes: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": "toy",
        "images": np.zeros((6, 4, 4), np.uint8),
        "labels": np.array([0, 0, 1, 1, 2, 2]),
        "class_names": ("a", "b", "c"),
        "splits": {"train": np.array([0, 1, 2, 3]), "test": np.array([4, 5])},
    }
    return Dataset(**{**fields, **changes})


def test_dataset_gives_its_splits_and_length() -> None:
    toy = dataset()
    assert len(toy) == 6
    assert toy.in_memory
    assert toy.split("test").tolist() == [4, 5]
    assert toy.image_id(3) == "toy[3]"


def test_dataset_of_files_names_pictures_by_path() -> None:
    toy = dataset(images=tuple(Path(f"p/{i}.png") for i in range(6)))
    assert not toy.in_memory
    assert toy.image_id(3) == str(Path("p/3.png"))


def test_missing_split_lists_the_others() -> None:
    with pytest.raises(DataError, match=r"no split 'val'.*train, test.*fix:"):
        dataset().split("val")


def test_dataset_is_immutable() -> None:
    boxes = np.array([[0, 0, 2, 2]] * 6, np.int32)
    toy = dataset(roles=np.zeros(6, np.int8), groups=np.zeros(6, np.int64), boxes=boxes)
    for array in (toy.images, toy.labels, toy.roles, toy.groups, toy.boxes, toy.splits["train"]):
        assert isinstance(array, np.ndarray)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        toy.splits["val"] = np.array([0])  # type: ignore[index]
    with pytest.raises(AttributeError):
        toy.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 1])}, "6 images and 2 labels"),
        ({"images": np.zeros((6, 4, 4), np.float32)}, r"float32 \[6, 4, 4\]"),
        ({"images": np.zeros((6, 16), np.uint8)}, r"uint8 \[6, 16\]"),
        ({"images": np.zeros((6, 4, 4, 4), np.uint8)}, r"uint8 \[6, 4, 4, 4\]"),
        ({"images": (), "labels": np.zeros(0, np.int64)}, "is empty"),
        ({"labels": np.zeros(6)}, "float64"),
        ({"labels": np.array([0, 0, 1, 1, 2, 3])}, r"labels 0\.\.3; expected 0\.\.2"),
        ({"labels": np.array([0, 0, 1, 1, 2, -1])}, r"labels -1\.\.2"),
        ({"roles": np.zeros(5, np.int8)}, "roles do not fit"),
        ({"boxes": np.array([[0, 0, 2, 2]] * 5, np.int32)}, r"got int32 \[5, 4\]; expected int32 \[6, 4\]"),
        ({"boxes": np.array([[0, 0, 2, 2]] * 6)}, r"boxes that do not fit the images or hold no pixel; got int64"),
        ({"boxes": np.array([[0, 2, 2, 2]] * 6, np.int32)}, r"x0 < x1 and y0 < y1"),
        ({"groups": np.zeros(7, np.int64)}, "groups do not fit"),
        ({"splits": {"test": np.array([], np.int64)}}, "'test' .* is empty"),
        ({"splits": {"test": np.array([4, 6])}}, r"'test' .* outside .* got 4\.\.6; expected 0\.\.5"),
        ({"splits": {"test": np.array([-1, 4])}}, "outside"),
        ({"splits": {"test": np.array([4, 4])}}, "twice"),
        ({"splits": {"train": np.array([0, 2]), "test": np.array([3])}}, "'train' and 'test' .* share the class 'b'"),
    ],
)
def test_dataset_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**changes)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.data.dataset import Dataset, digest, path_and_box
from hetero.errors import DataError

FILES = tuple(Path(f"p/{i}.png") for i in range(6))
BOXES = np.array([[0, 1, 3, 4 + i] for i in range(6)], np.int32)


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
    toy = dataset(roles=np.zeros(6, np.int8), groups=np.zeros(6, np.int64))
    for array in (toy.images, toy.labels, toy.roles, toy.groups, toy.splits["train"]):
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
        ({"groups": np.zeros(7, np.int64)}, "groups do not fit"),
        ({"splits": {"test": np.array([], np.int64)}}, "'test' .* is empty"),
        ({"splits": {"test": np.array([4, 6])}}, r"'test' .* outside .* got 4\.\.6; expected 0\.\.5"),
        ({"splits": {"test": np.array([-1, 4])}}, "outside"),
        ({"splits": {"test": np.array([4, 4])}}, "twice"),
        ({"splits": {"train": np.array([0, 2]), "test": np.array([3])}}, "'train' and 'test' .* share the class 'b'"),
        ({"inverted": True}, "pixels in memory and boxes or inversion"),
        ({"boxes": BOXES}, "pixels in memory and boxes or inversion"),
        (
            {"images": FILES, "boxes": BOXES[:5]},
            r"boxes do not fit the images; got int32 \[5, 4\]; expected int32 \[6, 4\]",
        ),
        ({"images": FILES, "boxes": BOXES.astype(np.int64)}, r"got int64 \[6, 4\]"),
        ({"images": FILES, "boxes": BOXES - 4}, r"box of .*0\.png holds no pixel; got \[-4, -3, -1, 0\]"),
        (
            {"images": FILES, "boxes": BOXES[:, [2, 1, 0, 3]]},
            r"holds no pixel; got \[3, 1, 0, 4\]; expected left < right",
        ),
        ({"images": FILES, "boxes": BOXES[:, [0, 3, 2, 1]]}, r"holds no pixel; got \[0, 4, 3, 1\]"),
    ],
)
def test_dataset_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**changes)


def test_a_box_is_part_of_a_pictures_name() -> None:
    toy = dataset(images=(FILES[0],) * 6, boxes=BOXES)
    assert toy.image_id(2) == f"{FILES[0]}#0,1,3,6"
    assert path_and_box(toy.image_id(2)) == (FILES[0], (0, 1, 3, 6))
    assert path_and_box("a.png#-3,-5,100,120") == (Path("a.png"), (-3, -5, 100, 120))
    assert path_and_box("a#b/c#1,2.png") == (Path("a#b/c#1,2.png"), None)
    with pytest.raises(ValueError, match="read-only"):
        toy.boxes[0] = 0  # type: ignore[index]


def test_only_files_read_as_they_stand_are_plain() -> None:
    assert dataset(images=FILES).plain_files
    for changes in ({}, {"images": FILES, "boxes": BOXES}, {"images": FILES, "inverted": True}):
        assert not dataset(**changes).plain_files


def test_the_digest_changes_with_each_box_and_with_inversion() -> None:
    other = BOXES.copy()
    other[5, 3] += 1
    variants = ({}, {"boxes": BOXES}, {"boxes": other}, {"inverted": True}, {"boxes": BOXES, "inverted": True})
    assert len({digest(dataset(images=FILES, **changes)) for changes in variants}) == len(variants)
    assert digest(dataset(images=FILES, boxes=BOXES)) == digest(dataset(images=FILES, boxes=BOXES.copy()))

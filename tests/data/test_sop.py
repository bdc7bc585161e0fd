from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hetero.data.open import open_dataset, parse_data_config
from hetero.data.sop import SopConfig, read_sop
from hetero.errors import DataError

HEADER = "image_id class_id super_class_id path"
TRAIN = [
    "1 1 1 bicycle_final/111085122871_0.JPG",
    "2 1 1 bicycle_final/111085122871_1.JPG",
    "3 2 1 bicycle_final/111265328556_0.JPG",
    "4 2 1 bicycle_final/111265328556_1.JPG",
]
TEST = [
    "5 11319 2 cabinet_final/110715681235_0.JPG",
    "6 11319 2 cabinet_final/110715681235_1.JPG",
    "7 11320 3 coffee_maker_final/110799443597_0.JPG",
    "8 11320 3 coffee_maker_final/110799443597_1.JPG",
]


@pytest.fixture
def root(tmp_path: Path, picture: Any) -> Path:
    top = tmp_path / "Stanford_Online_Products"
    for i, line in enumerate(TRAIN + TEST):
        picture(top / line.split()[3], i)
    write(top, "train", TRAIN)
    write(top, "test", TEST)
    return top


def write(root: Path, split: str, lines: list[str], header: str = HEADER) -> None:
    (root / f"Ebay_{split}.txt").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def test_both_lists_are_read(root: Path) -> None:
    found = read_sop(SopConfig(path=root))
    assert found.name == "sop"
    assert found.class_names == ("bicycle/1", "bicycle/2", "cabinet/11319", "coffee_maker/11320")
    assert found.images == tuple(root / line.split()[3] for line in TRAIN + TEST)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.split("train").tolist() == [0, 1, 2, 3]
    assert found.split("test").tolist() == [4, 5, 6, 7]
    assert found.roles is None
    assert read_sop(SopConfig(path=root, val_classes=1)).split("val").tolist() == [2, 3]


def test_classes_are_in_the_order_of_their_numbers(root: Path) -> None:
    write(root, "train", [line.replace(" 2 1 ", " 10 1 ").replace(" 1 1 ", " 9 1 ") for line in TRAIN[::-1]])
    found = read_sop(SopConfig(path=root))
    assert found.class_names[:2] == ("bicycle/9", "bicycle/10")
    assert found.labels[:4].tolist() == [1, 1, 0, 0]


def test_it_opens_by_its_format(root: Path) -> None:
    parsed = parse_data_config({"format": "sop", "path": str(root)})
    assert parsed == SopConfig(path=root)
    assert len(open_dataset(parsed)) == 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_list_is_named_with_its_folder(root: Path, split: str) -> None:
    (root / f"Ebay_{split}.txt").unlink()
    message = rf"no such file: .*Ebay_{split}\.txt; expected Ebay_{split}\.txt in the folder .*, as Stanford_Online_P"
    with pytest.raises(DataError, match=message):
        read_sop(SopConfig(path=root))


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got data\.path .*nowhere, which is no folder"):
        read_sop(SopConfig(path=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("split", "text", "message"),
    [
        ("train", "3 2 1", r"Ebay_train\.txt line 4: wrong number of values; got '3 2 1'; expected <image_id> <class"),
        ("train", "3 two 1 a.JPG", r"Ebay_train\.txt line 4: wrong class_id; got 'two'"),
        ("train", "3 2 ² a.JPG", r"line 4: wrong super_class_id; got '²'"),
        ("train", "-3 2 1 a.JPG", "line 4: wrong image_id"),
        ("train", "1 2 1 bicycle_final/x.JPG", r"line 4: the image_id 1 is given twice; got lines 2 and 4"),
        (
            "test",
            "1 9 1 bicycle_final/x.JPG",
            r"image_id 1 is given twice; got .*Ebay_train\.txt line 2 and .*test\.txt",
        ),
        (
            "test",
            "7 2 1 bicycle_final/x.JPG",
            r"class 'bicycle/2' is in train and in test; got .*train\.txt line 4 and",
        ),
        ("test", f"7 9 1 {TRAIN[0].split()[3]}", r"871_0\.JPG is listed twice; got .*train\.txt line 2 and .*line 4"),
        ("test", "7 9 1 bicycle_final/x.JPG", r"Ebay_test\.txt line 4: no such picture: .*x\.JPG; got 1 absent of 8"),
    ],
)
def test_a_wrong_line_is_refused_by_number(root: Path, split: str, text: str, message: str) -> None:
    lines = TRAIN if split == "train" else TEST
    write(root, split, [*lines[:2], text, *lines[3:]])
    with pytest.raises(DataError, match=message):
        read_sop(SopConfig(path=root))


def test_another_header_is_refused(root: Path) -> None:
    write(root, "train", TRAIN, header="image_id class_id path")
    with pytest.raises(DataError, match=f"another header; got 'image_id class_id path'; expected '{HEADER}'"):
        read_sop(SopConfig(path=root))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "got no line"), (HEADER.encode(), "cut short"), (b"\xff\xfe\x00", "not UTF-8")]
)
def test_a_list_that_holds_nothing_is_refused(root: Path, content: bytes, message: str) -> None:
    (root / "Ebay_test.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"Ebay_test\.txt .*{message}"):
        read_sop(SopConfig(path=root))


def test_a_class_of_one_picture_is_refused_or_left_out(root: Path) -> None:
    write(root, "test", TEST[:3])
    with pytest.raises(DataError, match=r"'coffee_maker/11320' .* has one image"):
        read_sop(SopConfig(path=root))
    found = read_sop(SopConfig(path=root, drop_small_classes=True))
    assert found.class_names == ("bicycle/1", "bicycle/2", "cabinet/11319")
    assert found.split("test").tolist() == [4, 5]

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hetero.data.cub200 import Cub200Config, read_cub200
from hetero.data.open import open_dataset, parse_data_config
from hetero.data.pixels import read_pixels
from hetero.errors import DataError
from hetero.preprocess import PreprocessSpec

NAMES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "004.Groove_billed_Ani")
FILES = [f"{NAMES[i // 2]}/{NAMES[i // 2][4:]}_{i % 2 + 1:04d}_{796100 + i}.jpg" for i in range(8)]
LISTS = {
    "images": [f"{i + 1} {file}" for i, file in enumerate(FILES)],
    "image_class_labels": [f"{i + 1} {i // 2 + 1}" for i in range(8)],
    "classes": [f"{i + 1} {name}" for i, name in enumerate(NAMES)],
    "bounding_boxes": [f"{i + 1} {i}.0 2.0 5.0 4.5" for i in range(8)],
    "train_test_split": [f"{i + 1} {(i + 1) % 2}" for i in range(8)],
}


@pytest.fixture
def root(tmp_path: Path, picture: Any) -> Path:
    top = tmp_path / "CUB_200_2011"
    for i, file in enumerate(FILES):
        picture(top / "images" / file, i, size=(9, 14))
    for name, lines in LISTS.items():
        write(top, name, lines)
    return top


def write(root: Path, name: str, lines: list[str]) -> None:
    (root / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(root: Path, **keys: Any) -> Cub200Config:
    return Cub200Config(path=root, **{"train_classes": 2, **keys})


def test_the_first_classes_train_and_the_last_are_searched(root: Path) -> None:
    found = read_cub200(config(root))
    assert found.name == "cub200"
    assert found.class_names == NAMES
    assert found.images == tuple(root / "images" / file for file in FILES)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.split("train").tolist() == [0, 1, 2, 3]
    assert found.split("test").tolist() == [4, 5, 6, 7]
    assert found.roles is None
    assert found.boxes is None
    assert read_cub200(config(root, val_classes=1)).split("val").tolist() == [2, 3]


def test_lists_are_joined_by_id_not_by_line(root: Path) -> None:
    write(root, "image_class_labels", LISTS["image_class_labels"][::-1])
    write(root, "classes", LISTS["classes"][::-1])
    found = read_cub200(config(root))
    assert found.class_names == NAMES
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_crop_takes_the_box_of_each_bird(root: Path) -> None:
    write(root, "bounding_boxes", ["2 0.5 1.0 3.0 20.0", "1 3.0 2.0 5.0 4.5", *LISTS["bounding_boxes"][2:]])
    found = read_cub200(config(root, crop=True))
    assert found.boxes is not None
    assert found.boxes[:3].tolist() == [[3, 2, 8, 7], [0, 1, 4, 21], [2, 2, 7, 7]]
    pixels = read_pixels(found, [0, 1], PreprocessSpec(height=4, width=4, channels=3, filter="box"))
    whole = np.asarray(Image.open(found.images[1]))
    by_hand = Image.fromarray(whole[1:9, 0:4]).resize((4, 4), Image.Resampling.BOX)
    assert np.array_equal(pixels[1], np.asarray(by_hand))  # what reaches below the picture is cut off


def test_it_opens_by_its_format(root: Path) -> None:
    parsed = parse_data_config({"format": "cub200", "path": str(root), "train_classes": 2})
    assert parsed == config(root)
    assert len(open_dataset(parsed)) == 8
    assert Cub200Config(path=root).train_classes == 100


@pytest.mark.parametrize("name", ["images", "image_class_labels", "classes", "bounding_boxes"])
def test_a_missing_list_is_named_with_its_folder(root: Path, name: str) -> None:
    (root / f"{name}.txt").unlink()
    message = rf"no such file: .*{name}\.txt; expected {name}\.txt in the folder .*CUB_200_2011, as CUB_200_2011\.tgz"
    with pytest.raises(DataError, match=message):
        read_cub200(config(root, crop=True))


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("images", 2, "3", r"images\.txt line 3: wrong number of values; got '3'; expected <image_id> <image_name>"),
        ("images", 2, "x a.jpg", r"images\.txt line 3: wrong image_id; got 'x'; expected a whole number from 1"),
        ("images", 2, "0 a.jpg", r"line 3: wrong image_id; got '0'"),
        ("images", 2, f"1 {FILES[2]}", r"images\.txt line 3: the image_id 1 is given twice; got lines 1 and 3"),
        ("images", 2, f"3 {FILES[0]}", r"0001_796100\.jpg is listed twice; got .*images\.txt line 1 and .* line 3"),
        ("images", 2, "3 001.Black/gone.jpg", r"images\.txt line 3: no such picture: .*gone\.jpg; got 1 absent of 8"),
        ("images", 2, f"9 {FILES[2]}", r"image_class_labels\.txt line 3: the image_id 3 is not in images\.txt"),
        ("image_class_labels", 2, "9 2", r"line 3: the image_id 9 is not in images\.txt"),
        ("image_class_labels", 2, "3 7", r"image_class_labels\.txt line 3: the class_id 7 is not in classes\.txt"),
        ("classes", 2, "3", r"classes\.txt line 3: wrong number of values"),
        ("bounding_boxes", 2, "9 1.0 1.0 3.0 3.0", r"images\.txt line 3: the image_id 3 is not in bounding_boxes\.txt"),
        ("bounding_boxes", 2, "3 1.0 1.0 3.0", "line 3: wrong number of values"),
        ("bounding_boxes", 2, "3 1.0 1.0 x 3.0", "line 3: wrong width; got 'x'; expected pixels, at least 0"),
        ("bounding_boxes", 2, "3 -1.0 1.0 3.0 3.0", "line 3: wrong x; got '-1.0'; expected pixels, at least 0"),
        ("bounding_boxes", 2, "3 1.0 nan 3.0 3.0", "line 3: wrong y"),
        ("bounding_boxes", 2, "3 1.5 1.0 0.0 3.0", "line 3: the box holds no pixel"),
    ],
)
def test_a_wrong_line_is_refused_by_number(root: Path, name: str, line: int, text: str, message: str) -> None:
    write(root, name, [*LISTS[name][:line], text, *LISTS[name][line + 1 :]])
    with pytest.raises(DataError, match=message):
        read_cub200(config(root, crop=name == "bounding_boxes"))


def test_an_image_without_label_is_refused(root: Path) -> None:
    write(root, "image_class_labels", LISTS["image_class_labels"][:-1])
    with pytest.raises(DataError, match=r"images\.txt line 8: the image_id 8 is not in image_class_labels\.txt"):
        read_cub200(config(root))


def test_no_class_to_test_on_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"no class to test on; got 4 classes and train_classes 100"):
        read_cub200(config(root, train_classes=100))


def test_skip_bad_lists_what_cannot_be_read(root: Path) -> None:
    write(root, "images", [*LISTS["images"], f"9 {NAMES[0]}/gone.jpg", f"10 {NAMES[0]}/empty.jpg", f"11 {FILES[0]}"])
    write(root, "image_class_labels", [*LISTS["image_class_labels"], "9 1", "10 1", "11 1"])
    (root / "images" / NAMES[0] / "empty.jpg").touch()
    found = read_cub200(config(root, skip_bad=True))
    assert found.images == tuple(root / "images" / file for file in FILES)
    assert len(found.skipped) == 3
    for line, part in zip(found.skipped, ("repeated by", "gone.jpg: no such file", "empty.jpg"), strict=True):
        assert part in line
    with pytest.raises(DataError):
        read_cub200(config(root))


def test_skip_bad_leaves_out_a_picture_that_its_box_misses(root: Path) -> None:
    write(root, "bounding_boxes", ["1 14.0 0.0 3.0 3.0", *LISTS["bounding_boxes"][1:]])
    found = read_cub200(config(root, crop=True, skip_bad=True, min_images_per_class=1))
    assert len(found) == 7
    assert "holds nothing of the picture" in found.skipped[0]


def test_skip_bad_leaves_out_a_picture_with_an_empty_box(root: Path) -> None:
    write(root, "bounding_boxes", ["1 1.5 1.0 0.0 3.0", *LISTS["bounding_boxes"][1:]])
    found = read_cub200(config(root, crop=True, skip_bad=True, min_images_per_class=1))
    assert len(found) == 7
    assert "an empty box" in found.skipped[0]

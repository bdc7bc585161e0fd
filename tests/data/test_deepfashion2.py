from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hetero.data.dataset import ROLE_GALLERY, ROLE_QUERY
from hetero.data.deepfashion2 import DeepFashion2Config, read_deepfashion2
from hetero.data.open import open_dataset, parse_data_config
from hetero.data.pixels import read_pixels
from hetero.errors import DataError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.protocol import for_dataset


def item(style: int, category: int, box: list[int]) -> dict[str, Any]:
    """A garment with every published key."""
    return {
        "category_name": "short sleeve top" if category == 1 else "trousers",
        "category_id": category,
        "style": style,
        "bounding_box": box,
        "landmarks": [3, 4, 2],
        "segmentation": [[1, 1, 5, 1, 5, 5]],
        "scale": 2,
        "occlusion": 1,
        "zoom_in": 1,
        "viewpoint": 2,
    }


TOP, LEGS = [2, 1, 10, 8], [3, 9, 11, 20]
ANNOTATIONS: dict[str, dict[str, Any]] = {
    "train/000001": {"item1": item(1, 1, TOP), "source": "user", "pair_id": 1, "item2": item(2, 8, LEGS)},
    "train/000002": {"item1": item(1, 1, [0, 0, 12, 12]), "source": "shop", "pair_id": 1},
    "train/000003": {"item1": item(2, 8, LEGS), "source": "shop", "pair_id": 1, "item2": item(0, 1, TOP)},
    "validation/000001": {"item1": item(1, 1, TOP), "source": "user", "pair_id": 1, "item2": item(0, 8, LEGS)},
    "validation/000002": {"item1": item(1, 1, TOP), "source": "shop", "pair_id": 1, "item2": item(1, 8, LEGS)},
    "validation/000003": {"source": "shop", "pair_id": 7, "item1": item(0, 1, TOP)},
    "validation/000004": {"source": "shop", "pair_id": 1, "item1": item(2, 1, TOP)},
}


@pytest.fixture
def root(tmp_path: Path, picture: Any) -> Path:
    for i, (name, content) in enumerate(ANNOTATIONS.items()):
        folder, number = name.split("/")
        picture(tmp_path / folder / "image" / f"{number}.jpg", i, size=(20, 15))
        annotate(tmp_path, name, content)
    return tmp_path


def annotate(root: Path, name: str, content: object) -> None:
    folder, number = name.split("/")
    (root / folder / "annos").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / folder / "annos" / f"{number}.json").write_text(text, encoding="utf-8")


def test_garments_are_items_by_pair_and_style_whatever_their_category(root: Path) -> None:
    found = read_deepfashion2(DeepFashion2Config(path=root))
    assert found.name == "deepfashion2"
    assert found.class_names == (
        "train pair 1 style 1",
        "train pair 1 style 2",
        "validation without pair",
        "validation pair 1 style 1",
        "validation pair 1 style 2",
    )
    files = ["train 1", "train 1", "train 2", "train 3", *(f"validation {i}" for i in (1, 2, 2, 3, 4))]
    folders = [name.split() for name in files]
    assert found.images == tuple(root / folder / "image" / f"00000{number}.jpg" for folder, number in folders)
    assert found.labels.tolist() == [0, 1, 0, 1, 3, 3, 3, 2, 4]
    assert found.split("train").tolist() == [0, 1, 2, 3]
    assert found.split("test").tolist() == [4, 5, 6, 7, 8]
    query, gallery = ROLE_QUERY, ROLE_GALLERY
    assert np.asarray(found.roles).tolist() == [query, query, gallery, gallery, query, *[gallery] * 4]
    assert np.asarray(found.boxes).tolist() == [TOP, LEGS, [0, 0, 12, 12], LEGS, TOP, TOP, LEGS, TOP, TOP]


def test_a_consumer_garment_is_searched_among_all_shop_garments(root: Path) -> None:
    found = read_deepfashion2(DeepFashion2Config(path=root))
    protocol = for_dataset(found, found.split("test"))
    assert protocol.query_ids.tolist() == [0]
    assert protocol.gallery_ids.tolist() == [1, 2, 3, 4]
    assert protocol.matches(0).tolist() == [0, 1]  # the trousers that say the same style too, not the other style


def test_garments_without_pair_can_be_left_away(root: Path) -> None:
    found = read_deepfashion2(DeepFashion2Config(path=root, distractors=False))
    assert "validation without pair" not in found.class_names
    assert len(found) == 8


def test_a_box_annotated_twice_is_the_garment_of_the_pair(root: Path) -> None:
    """Published annotations have boxes with two items, one of style 0."""
    twins = {"item1": item(0, 10, TOP), "item2": item(2, 4, TOP), "item3": item(0, 1, LEGS), "item4": item(0, 2, LEGS)}
    annotate(root, "validation/000004", {"source": "shop", "pair_id": 1} | twins)
    found = read_deepfashion2(DeepFashion2Config(path=root))
    assert found.labels.tolist() == [0, 1, 0, 1, 3, 3, 3, 2, 4, 2]
    assert np.asarray(found.boxes)[8:].tolist() == [TOP, LEGS]


def test_each_garment_is_cut_out_and_named_by_its_box(root: Path) -> None:
    found = read_deepfashion2(DeepFashion2Config(path=root))
    pixels = read_pixels(found, [1], PreprocessSpec(height=11, width=8, channels=3))
    whole = np.asarray(Image.open(root / "train/image/000001.jpg"))
    assert np.array_equal(pixels[0], whole[9:20, 3:11])
    assert found.image_id(1) == f"{root / 'train/image/000001.jpg'}#3,9,11,20"
    assert len({found.image_id(i) for i in range(len(found))}) == len(found)


def test_val_classes_come_from_train(root: Path) -> None:
    found = read_deepfashion2(DeepFashion2Config(path=root, val_classes=1))
    assert found.split("val").tolist() == [1, 3]


def test_it_opens_by_its_format(root: Path) -> None:
    parsed = parse_data_config({"format": "deepfashion2", "path": str(root)})
    assert parsed == DeepFashion2Config(path=root)
    assert len(open_dataset(parsed)) == 9


def test_boxes_are_widened_to_whole_pixels_and_begin_in_the_picture(root: Path) -> None:
    content = {"source": "shop", "pair_id": 1, "item1": item(2, 1, [-3, 0.5, 4.2, 9.0])}  # type: ignore[list-item]
    annotate(root, "validation/000004", content)
    assert np.asarray(read_deepfashion2(DeepFashion2Config(path=root)).boxes)[8].tolist() == [0, 0, 5, 9]


@pytest.mark.parametrize("folder", ["train/image", "train/annos", "validation/image", "validation/annos"])
def test_a_missing_folder_is_named(root: Path, folder: str) -> None:
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(
        DataError, match=rf"no such folder: .*{folder}; expected {folder}/ in the folder .*DeepFashion2"
    ):
        read_deepfashion2(DeepFashion2Config(path=root))


GOOD = ANNOTATIONS["validation/000004"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"annos/000004\.json is not JSON"),
        ([], r"000004\.json is no annotation; got list; expected a JSON object"),
        (
            {"pair_id": 1, "item1": GOOD["item1"]},
            r"000004\.json: no usable 'source'; got nothing; expected user or shop",
        ),
        (GOOD | {"source": "web"}, "no usable 'source'; got 'web'"),
        (GOOD | {"source": []}, "no usable 'source'"),
        (GOOD | {"pair_id": "1"}, "no usable 'pair_id'; got '1'; expected a whole number"),
        (GOOD | {"pair_id": True}, "no usable 'pair_id'"),
        (GOOD | {"item1": 3}, "no usable 'item1'; got 3"),
        (GOOD | {"item2": {"style": 1}}, r"000004\.json item2: no usable 'bounding_box'; got nothing"),
        (GOOD | {"item2": item(-1, 1, LEGS)}, "item2: no usable 'style'; got -1"),
        (GOOD | {"item2": item(1, 1, [1, 2, 3])}, r"item2: no usable 'bounding_box'; got \[1, 2, 3\]"),
        (GOOD | {"item2": item(1, 1, [1, 2, 3, None])}, "item2: no usable 'bounding_box'"),  # type: ignore[list-item]
        (GOOD | {"item2": item(1, 1, [1, 2, 3, float("nan")])}, "no usable 'bounding_box'"),  # type: ignore[list-item]
        (GOOD | {"item2": item(1, 1, [5, 2, 5, 9])}, r"item2: the box holds no pixel; got .*\(5, 2, 5, 9\)"),
        (GOOD | {"item2": item(1, 8, TOP)}, r"000004\.jpg is listed twice; got .*item1 and .*item2"),
    ],
)
def test_a_wrong_annotation_is_refused_by_file_and_garment(root: Path, content: object, message: str) -> None:
    annotate(root, "validation/000004", content)
    with pytest.raises(DataError, match=message):
        read_deepfashion2(DeepFashion2Config(path=root))


def test_pictures_and_annotations_come_together(root: Path) -> None:
    (root / "train/image/000002.jpg").rename(root / "train/image/000009.jpg")
    with pytest.raises(DataError, match=r"000009\.jpg has no annotation; got 1 such pictures; expected .*train/annos"):
        read_deepfashion2(DeepFashion2Config(path=root))
    (root / "train/image/000009.jpg").unlink()
    with pytest.raises(DataError, match=r"000002\.json item1: no such picture: .*000002\.jpg; got 1 absent of 9"):
        read_deepfashion2(DeepFashion2Config(path=root))


def test_skip_bad_lists_what_cannot_be_used(root: Path) -> None:
    (root / "validation/image/000003.jpg").unlink()
    content = GOOD | {"item2": item(1, 8, TOP), "item3": item(1, 8, [5, 2, 5, 9]), "item4": item(1, 8, [15, 0, 20, 9])}
    annotate(root, "validation/000004", content)
    found = read_deepfashion2(DeepFashion2Config(path=root, skip_bad=True, drop_small_classes=True))
    assert len(found) == 8
    for part in ("repeated by", "an empty box", "no such file", "holds nothing of the picture", "without pair"):
        assert sum(part in line for line in found.skipped) == 1, part

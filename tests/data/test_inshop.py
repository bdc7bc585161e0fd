from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.data.dataset import ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY
from hetero.data.inshop import InshopConfig, read_inshop
from hetero.data.open import open_dataset, parse_data_config
from hetero.errors import DataError
from hetero.retrieval.protocol import for_dataset

ROWS = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
    ("img/MEN/Denim/id_00000080/01_1_front.jpg", "id_00000080", "train"),  # an item of one picture
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_1_front.jpg", "id_00000001", "query"),
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_2_side.jpg", "id_00000001", "gallery"),
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_3_back.jpg", "id_00000001", "gallery"),
    ("img/WOMEN/Tees_Tanks/id_00000007/01_1_front.jpg", "id_00000007", "query"),
    ("img/WOMEN/Tees_Tanks/id_00000007/01_2_side.jpg", "id_00000007", "gallery"),
]


@pytest.fixture
def root(tmp_path: Path, picture: Any) -> Path:
    top = tmp_path / "In-shop Clothes Retrieval Benchmark"
    for i, (name, _, _) in enumerate(ROWS):
        picture(top / "Img" / name, i)
    (top / "Eval").mkdir()
    write(top, ROWS)
    return top


def write(root: Path, rows: list[tuple[str, ...]], first: str | None = None) -> None:
    """The published file pads its columns with blanks."""
    lines = [str(len(rows)) if first is None else first, "image_name item_id evaluation_status"]
    lines += [f"{row[0]:<72}{' '.join(row[1:]):<30}" for row in rows]
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_query_and_gallery_are_roles_of_the_test_split(root: Path) -> None:
    found = read_inshop(InshopConfig(path=root))
    assert found.name == "inshop"
    assert found.class_names == ("id_00000001", "id_00000002", "id_00000007", "id_00000080")
    assert found.images == tuple(root / "Img" / name for name, _, _ in ROWS)
    assert found.labels.tolist() == [1, 1, 3, 0, 0, 0, 2, 2]
    assert found.split("train").tolist() == [0, 1, 2]
    assert found.split("test").tolist() == [3, 4, 5, 6, 7]
    both, query, gallery = ROLE_BOTH, ROLE_QUERY, ROLE_GALLERY
    assert np.asarray(found.roles).tolist() == [both, both, both, query, gallery, gallery, query, gallery]


def test_only_queries_search_and_only_the_gallery_is_found(root: Path) -> None:
    found = read_inshop(InshopConfig(path=root))
    protocol = for_dataset(found, found.split("test"))
    assert protocol.query_ids.tolist() == [0, 3]
    assert protocol.gallery_ids.tolist() == [1, 2, 4]
    assert protocol.num_matches.tolist() == [2, 1]


def test_names_may_begin_in_another_folder(root: Path) -> None:
    (root / "Img" / "img").rename(root / "img")
    with pytest.raises(DataError, match=r"no such picture: .*Img/img/WOMEN"):
        read_inshop(InshopConfig(path=root))
    assert read_inshop(InshopConfig(path=root, images=Path("."))).images[0] == root / ROWS[0][0]


def test_val_classes_come_from_train(root: Path) -> None:
    found = read_inshop(InshopConfig(path=root, val_classes=1))
    assert found.split("val").tolist() == [2]
    assert found.split("train").tolist() == [0, 1]


def test_it_opens_by_its_format(root: Path) -> None:
    parsed = parse_data_config({"format": "inshop", "path": str(root)})
    assert parsed == InshopConfig(path=root)
    assert len(open_dataset(parsed)) == 8


def test_a_missing_partition_is_named_with_its_folder(root: Path) -> None:
    (root / "Eval" / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"no such file: .*partition\.txt; expected Eval/list_.* in the folder .*DeepF"):
        read_inshop(InshopConfig(path=root))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("img/a.jpg", "id_1"), "line 6: wrong number of values"),
        (("img/a.jpg", "id_1", "querry"), r"line 6: wrong evaluation_status; got 'querry'; expected .*nearest: query"),
        (("img/a.jpg", "id_1", "query"), r"line 6: no such picture: .*Img/img/a\.jpg; got 1 absent of 8"),
        ((ROWS[0][0], "id_1", "query"), r"02_1_front\.jpg is listed twice; got .* line 3 and .* line 6"),
        (
            (ROWS[3][0], "id_00000002", "query"),
            "class 'id_00000002' is in train and in test; got .* line 3 and .* line 6",
        ),
    ],
)
def test_a_wrong_line_is_refused_by_number(root: Path, row: tuple[str, ...], message: str) -> None:
    write(root, [*ROWS[:3], row, *ROWS[4:]])
    with pytest.raises(DataError, match=message):
        read_inshop(InshopConfig(path=root))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("9", "cut short or has lines too many; got 8 lines of values; expected 9, as its first line says"),
        ("7", "got 8 lines of values; expected 7"),
        ("many", "does not begin with its number of lines; got 'many'"),
    ],
)
def test_another_count_is_refused(root: Path, first: str, message: str) -> None:
    write(root, ROWS, first=first)
    with pytest.raises(DataError, match=message):
        read_inshop(InshopConfig(path=root))


def test_a_list_without_queries_is_refused(root: Path) -> None:
    write(root, ROWS[:3])
    with pytest.raises(DataError, match="has no picture to test on"):
        read_inshop(InshopConfig(path=root))

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from hetero.data.csv import CsvConfig, read_csv
from hetero.data.splits import SplitConfig
from hetero.errors import ConfigError, DataError, ImageError

MakeFolder = Callable[[Mapping[str, int]], Path]
ALL_TRAIN = SplitConfig(val_fraction=0, test_fraction=0)
HEADER = "path,label\n"
FOUR = "a/0.png,cat\na/1.png,cat\nb/0.png,dog\nb/1.png,dog\n"


@pytest.fixture
def root(make_folder: MakeFolder) -> Path:
    return make_folder({"a": 3, "b": 3})


def manifest(root: Path, text: str, encoding: str = "utf-8") -> Path:
    path = root / "list.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_paths_start_from_the_folder_of_the_file(root: Path) -> None:
    absolute = root / "b" / "1.png"
    path = manifest(root, f"{HEADER}a/0.png,dog\n./a/1.png , dog \nb/0.png,cat\n{absolute},cat\n")
    found = read_csv(CsvConfig(path=path, split=ALL_TRAIN))
    assert found.name == "list"
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [1, 1, 0, 0]
    assert found.images == (root / "a/0.png", root / "a/1.png", root / "b/0.png", absolute)


def test_split_role_and_group_are_taken_over(root: Path) -> None:
    path = manifest(
        root,
        "label,split,role,group,path,note\n"
        "cat,test,query,g2,a/0.png,x\n"
        "cat,test,gallery,,a/1.png,\n"
        "dog,train,both,g1,b/0.png,y\n"
        "dog,train,both,g2,b/1.png,\n",
    )
    found = read_csv(CsvConfig(path=path))
    assert found.split("train").tolist() == [2, 3]
    assert found.split("test").tolist() == [0, 1]
    assert np.asarray(found.roles).tolist() == [1, 2, 0, 0]
    assert np.asarray(found.groups).tolist() == [1, -1, 0, 1]


def test_spreadsheet_files_with_byte_order_mark_and_quotes_are_read(root: Path) -> None:
    (root / "a" / "0.png").rename(root / "a" / "0, first.png")
    path = manifest(root, '\ufeffpath,label\r\n"a/0, first.png",cat\r\na/1.png,cat\r\n\r\n')
    found = read_csv(CsvConfig(path=path, split=ALL_TRAIN))
    assert [path.name for path in found.images] == ["0, first.png", "1.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column 'path'; got columns none.*fix: correct the header"),
        ("path,class\na/0.png,cat\n", r"no column 'label'; got columns path, class; expected path, label"),
        ("path,label,label\na/0.png,cat,cat\n", "two columns 'label'"),
        ("path,label,splits\na/0.png,cat,train\n", r"column 'splits', which would be ignored; expected 'split'"),
        (HEADER, r"lists no image.*fix"),
        (HEADER + "a/0.png,\n", "line 2: the label is blank"),
        (HEADER + "a/0.png,cat\n , cat\n", "line 3: the path is blank"),
        (HEADER + "a/0.png\n", r"line 2: wrong number of values; expected 2: path, label"),
        (HEADER + "a/0.png,cat,dog\n", "line 2: wrong number of values"),
        (
            "path,label,role\na/0.png,cat,qury\n",
            r"line 2: unknown role; got 'qury'; .*both, gallery, query .nearest: query",
        ),
        ("path,label,split\na/0.png,cat,dev\n", r"line 2: unknown split; got 'dev'; expected one of test, train, val"),
        ("path,label,split\na/0.png,cat,\n", "line 2: unknown split; got ''"),
        (HEADER + "a/0.png,cat\na/0.png,dog\n", r"lists the image .*0\.png twice; got lines 2 and 3"),
        (HEADER + "a/9.png,cat\n" + FOUR, r"line 2: no such image file: .*9\.png; got 1 missing of 5"),
        (HEADER + '"a/0.png,cat\n', "not a UTF-8 CSV file"),
        (HEADER + FOUR + "a/2.png,emu\n", "class 'emu' of dataset 'list' has one image"),
        ("path,label,split\na/0.png,cat,train\na/1.png,cat,test\n", "'train' and 'test' .* share the class 'cat'"),
    ],
)
def test_wrong_manifests_are_refused(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(CsvConfig(path=manifest(root, text)))


def test_other_encodings_and_missing_files_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="not a UTF-8 CSV file"):
        read_csv(CsvConfig(path=manifest(root, HEADER + "a/0.png,Käse\n", encoding="latin-1")))
    with pytest.raises(DataError, match=r"no such file: .*none\.csv"):
        read_csv(CsvConfig(path=root / "none.csv"))


def test_split_section_beside_split_column_is_refused(root: Path) -> None:
    path = manifest(root, "path,label,split\na/0.png,cat,train\na/1.png,cat,train\n")
    with pytest.raises(ConfigError, match="carries its own splits"):
        read_csv(CsvConfig(path=path, split=ALL_TRAIN))


def test_skip_bad_lists_missing_and_unreadable_files(root: Path) -> None:
    (root / "a" / "zero.png").write_bytes(b"")
    (root / "a" / "text.png").write_text("hello")
    (root / "a" / "raw.dng").write_text("hello")
    path = manifest(root, HEADER + "gone.png,cat\na/zero.png,cat\na/text.png,dog\na/raw.dng,dog\n" + FOUR)
    found = read_csv(CsvConfig(path=path, split=ALL_TRAIN, skip_bad=True))
    assert [path.name for path in found.images] == ["0.png", "1.png", "0.png", "1.png"]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert len(found.skipped) == 4
    assert found.skipped[0] == f"{root / 'gone.png'}: no such file"
    for name in ("zero.png", "text.png", "raw.dng"):
        assert sum(name in line for line in found.skipped) == 1


def test_unsupported_type_without_skip_bad_is_refused(root: Path) -> None:
    (root / "a" / "raw.dng").write_text("hello")
    with pytest.raises(ImageError, match=r"raw\.dng"):
        read_csv(CsvConfig(path=manifest(root, HEADER + "a/raw.dng,cat\n" + FOUR)))


def test_class_that_loses_all_images_is_not_forgotten(root: Path) -> None:
    path = manifest(root, HEADER + FOUR + "gone.png,emu\n")
    with pytest.raises(DataError, match=r"class 'emu' .* has no image"):
        read_csv(CsvConfig(path=path, split=ALL_TRAIN, skip_bad=True))


def test_dropping_small_classes_keeps_roles_with_their_images(root: Path) -> None:
    path = manifest(
        root,
        "path,label,role\na/0.png,bee,query\na/1.png,cat,gallery\na/2.png,cat,query\nb/0.png,cat,both\n",
    )
    found = read_csv(CsvConfig(path=path, split=ALL_TRAIN, drop_small_classes=True))
    assert np.asarray(found.roles).tolist() == [2, 1, 0]

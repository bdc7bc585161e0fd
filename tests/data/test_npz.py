from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.data.npz import NpzConfig, read_npz
from hetero.data.splits import SplitConfig
from hetero.errors import ConfigError, DataError

GOOD: dict[str, Any] = {
    "images": np.arange(8 * 5 * 5, dtype=np.int64).reshape(8, 5, 5).astype(np.uint8),
    "labels": np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32),
    "classes": np.array(["a", "b", "c", "d"]),
    "train": np.array([0, 1, 2, 3, 4, 5], np.int32),
    "test": np.array([6, 7], np.int32),
    "drawer": np.array([1, 2, 1, 2, 1, 2, -5, 2], np.int16),
}


def write(path: Path, *without: str, **changes: Any) -> Path:
    np.savez(path, **{name: array for name, array in {**GOOD, **changes}.items() if name not in without})
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toy.npz"


def test_everything_is_taken_over(file: Path) -> None:
    found = read_npz(NpzConfig(path=write(file), groups_key="drawer"))
    assert found.name == "toy"
    assert np.array_equal(found.images, GOOD["images"])
    assert found.labels.tolist() == GOOD["labels"].tolist()
    assert found.labels.dtype == np.int64
    assert found.class_names == ("a", "b", "c", "d")
    assert found.split("train").tolist() == [0, 1, 2, 3, 4, 5]
    assert found.split("test").tolist() == [6, 7]
    assert np.asarray(found.groups).tolist() == [1, 2, 1, 2, 1, 2, -1, 2]


def test_groups_only_where_named(file: Path) -> None:
    assert read_npz(NpzConfig(path=write(file))).groups is None


def test_colour_images(file: Path) -> None:
    found = read_npz(NpzConfig(path=write(file, images=np.zeros((8, 5, 5, 3), np.uint8))))
    assert found.images.shape == (8, 5, 5, 3)  # type: ignore[union-attr]


def test_last_train_classes_become_val(file: Path) -> None:
    found = read_npz(NpzConfig(path=write(file), val_classes=1))
    assert found.split("train").tolist() == [0, 1, 2, 3]
    assert found.split("val").tolist() == [4, 5]


def test_masks_are_splits_too(file: Path) -> None:
    mask = np.arange(8) < 4
    found = read_npz(NpzConfig(path=write(file, train=mask)))
    assert found.split("train").tolist() == [0, 1, 2, 3]


def test_without_splits_the_config_divides(file: Path) -> None:
    path = write(file, "train", "test")
    found = read_npz(NpzConfig(path=path, split=SplitConfig(test=("b",), val=("a",))))
    assert found.split("test").tolist() == [2, 3]
    assert found.split("train").tolist() == [4, 5, 6, 7]
    assert set(read_npz(NpzConfig(path=path)).splits) == {"train", "val", "test"}


def test_without_classes_label_values_are_the_names(file: Path) -> None:
    labels = np.array([5, 5, 7, 7, 90, 90, 100, 100])
    found = read_npz(NpzConfig(path=write(file, "classes", labels=labels)))
    assert found.class_names == ("5", "7", "90", "100")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_dropping_small_classes_moves_labels_splits_and_groups(file: Path) -> None:
    labels = np.array([0, 0, 1, 3, 3, 3, 4, 4])  # b has one image, c none
    path = write(file, labels=labels, classes=np.array(list("abcde")))
    with pytest.raises(DataError, match=r"class 'b' .* has one image; too few, too: 'c'"):
        read_npz(NpzConfig(path=path))
    found = read_npz(NpzConfig(path=path, drop_small_classes=True, groups_key="drawer"))
    assert found.class_names == ("a", "d", "e")
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert np.array_equal(found.images, GOOD["images"][[0, 1, 3, 4, 5, 6, 7]])
    assert found.split("train").tolist() == [0, 1, 2, 3, 4]
    assert found.split("test").tolist() == [5, 6]
    assert np.asarray(found.groups).tolist() == [1, 2, 2, 1, 2, -1, 2]
    assert len(found.skipped) == 2


@pytest.mark.parametrize(
    ("without", "changes", "message"),
    [
        (("images",), {}, r"no array 'images'; expected one of classes, drawer, .*fix"),
        (("labels",), {}, "no array 'labels'"),
        (("labels",), {"label": GOOD["labels"]}, "nearest: label"),
        ((), {"labels": GOOD["labels"][:5]}, r"images \[8, 5, 5\] and labels \[5\]"),
        ((), {"images": np.array(3)}, "images without labels"),
        ((), {"labels": GOOD["labels"].astype(float)}, r"'labels' has a wrong type; got float64 \[8\]"),
        ((), {"labels": np.array([0, 0, 1, 1, 2, 2, 3, -1])}, "negative label; got -1"),
        ((), {"labels": np.array([0, 0, 1, 1, 2, 2, 3, 4])}, r"no class name; got label 4; expected 0\.\.3"),
        ((), {"images": GOOD["images"].astype(np.float32)}, "float32"),
        ((), {"classes": np.arange(4)}, "'classes' has a wrong type"),
        ((), {"classes": np.array(["a", "b", "c", "a"])}, "two classes named 'a'"),
        ((), {"train": np.array([0, 8])}, r"split 'train' points outside the images; got 0\.\.8; expected 0\.\.7"),
        ((), {"test": np.array([-1])}, "split 'test' points outside"),
        ((), {"test": np.array([0.5])}, "'test' has a wrong type"),
        ((), {"test": np.zeros(3, bool)}, "'test' has a wrong type"),
        ((), {"test": np.array([5, 6])}, "'train' and 'test' .* share the class 'c'"),
        ((), {"test": np.array([], np.int64)}, "'test' .* is empty"),
        (("drawer",), {}, "no array 'drawer'"),
        ((), {"drawer": np.arange(3)}, r"'drawer' .groups_key. does not fit the images; got 3 values; expected 8"),
        ((), {"drawer": np.zeros(8)}, "'drawer' has a wrong type"),
        ((), {"images": np.zeros((0, 5, 5), np.uint8), "labels": np.zeros(0, np.int64)}, "points outside"),
    ],
)
def test_wrong_arrays_are_refused(file: Path, without: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    path = write(file, *without, **changes)
    with pytest.raises(DataError, match=message):
        read_npz(NpzConfig(path=path, groups_key="drawer"))


def test_no_image_at_all_is_refused(file: Path) -> None:
    empty = {"images": np.zeros((0, 5, 5), np.uint8), "labels": np.zeros(0, np.int64)}
    path = write(file, "train", "test", "drawer", **empty)
    with pytest.raises(DataError, match="no class with 2 images"):
        read_npz(NpzConfig(path=path))


def test_split_section_beside_splits_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="carries its own splits"):
        read_npz(NpzConfig(path=write(file), split=SplitConfig()))


@pytest.mark.parametrize("name", ["labels", "classes"])
def test_pickled_objects_are_never_loaded(file: Path, name: str) -> None:
    class Explosive:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (file.parent / "exploded",))

    write(file, **{name: np.array([Explosive()] * 8, dtype=object)})
    with pytest.raises(DataError, match=rf"array '{name}' .* pickled Python objects.*fix"):
        read_npz(NpzConfig(path=file))
    assert not (file.parent / "exploded").exists()


def test_truncation_anywhere_is_refused(file: Path) -> None:
    whole = write(file).read_bytes()
    for length in [0, 1, 3, 4, 10, *range(20, len(whole) - 1, 97)]:
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"toy\.npz cannot be read; got .*; fix: "):
            read_npz(NpzConfig(path=file))


def test_damage_inside_an_array_is_refused(file: Path) -> None:
    whole = bytearray(write(file).read_bytes())
    at = whole.index(GOOD["images"][3].tobytes())
    whole[at] ^= 1
    file.write_bytes(whole)
    with pytest.raises(DataError, match=r"array 'images' of .*toy\.npz cannot be read; got BadZipFile"):
        read_npz(NpzConfig(path=file))


def test_missing_file_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*none\.npz.*fix"):
        read_npz(NpzConfig(path=tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("hello, this is no archive")
    with pytest.raises(DataError, match="not an npz file"):
        read_npz(NpzConfig(path=tmp_path / "text.npz"))
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        read_npz(NpzConfig(path=tmp_path / "single.npy"))


def test_omniglot(hetero_data: Path) -> None:
    found = read_npz(NpzConfig(path=hetero_data / "omniglot28.npz", groups_key="drawer", val_classes=180))
    sizes = {name: len(indices) for name, indices in found.splits.items()}
    assert sizes == {"train": 15680, "test": 13180, "val": 3600}
    assert len(found.class_names) == 1623
    train, val = (found.labels[found.split(name)] for name in ("train", "val"))
    assert train.max() < val.min()
    assert np.unique(np.asarray(found.groups)).tolist() == list(range(1, 21))


def test_grocery(hetero_data: Path) -> None:
    found = read_npz(NpzConfig(path=hetero_data / "grocery64.npz"))
    assert {name: len(np.unique(found.labels[i])) for name, i in found.splits.items()} == {"train": 41, "test": 40}

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hetero.data.splits import SplitConfig, hold_out_last, indices_of, shuffled, split_of_classes
from hetero.errors import ConfigError, DataError

NAMES = [f"class {i}" for i in range(20)]


def classes_of(owner: dict[str, str], split: str) -> set[str]:
    return {name for name, place in owner.items() if place == split}


def test_fractions_count_classes_and_cover_each_once() -> None:
    owner = split_of_classes(NAMES, SplitConfig(val_fraction=0.1, test_fraction=0.3), data="toy")
    assert set(owner) == set(NAMES)
    assert {split: len(classes_of(owner, split)) for split in ("train", "val", "test")} == {
        "train": 12, "val": 2, "test": 6,
    }  # fmt: skip


def test_division_depends_on_names_and_seed_not_on_order() -> None:
    config = SplitConfig(seed=3)
    owner = split_of_classes(NAMES, config, data="toy")
    assert split_of_classes(NAMES[::-1], config, data="toy") == owner
    assert split_of_classes(NAMES, SplitConfig(seed=4), data="toy") != owner


def test_shuffle_is_fixed_for_ever() -> None:
    # a change here would move classes between train and test of everybody's data
    assert shuffled(["a", "b", "c", "d"], 0) == ["d", "a", "c", "b"]
    few = [name for name in shuffled(NAMES, 0) if name in NAMES[:5]]
    assert shuffled(NAMES[:5], 0) == few


def test_zero_fraction_makes_no_such_split() -> None:
    owner = split_of_classes(NAMES, SplitConfig(val_fraction=0, test_fraction=0.5), data="toy")
    assert set(owner.values()) == {"train", "test"}


def test_small_fraction_still_gives_one_class() -> None:
    owner = split_of_classes(NAMES[:4], SplitConfig(val_fraction=0.01, test_fraction=0.01), data="toy")
    assert sorted(owner.values()) == ["test", "train", "train", "val"]


def test_fractions_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no class to train on.*2 classes, of which 1 val and 1 test.*fix"):
        split_of_classes(NAMES[:2], SplitConfig(), data="toy")


def test_explicit_lists_send_the_rest_to_train() -> None:
    owner = split_of_classes("abcd", SplitConfig(val=("b",), test=("d",)), data="toy")
    assert owner == {"a": "train", "b": "val", "c": "train", "d": "test"}


def test_explicit_train_leaves_others_out() -> None:
    owner = split_of_classes("abcd", SplitConfig(train=("a",), test=("d",)), data="toy")
    assert owner == {"a": "train", "d": "test"}
    assert indices_of(np.array([0, 1, 2, 3, 0]), "abcd", owner).keys() == {"train", "test"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(test=("x",)), r"split\.test .* unknown class; got 'x'.*one of a, b, c, d"),
        (SplitConfig(val=("a",), test=("a",)), r"'a' .* split\.val and split\.test.*class-disjoint"),
        (SplitConfig(test=("a", "a")), r"split\.test, twice"),
    ],
)
def test_wrong_lists_are_refused(config: SplitConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_of_classes("abcd", config, data="toy")


def test_unknown_class_among_many_does_not_list_them_all() -> None:
    names = [f"n{i}" for i in range(100)]
    with pytest.raises(ConfigError, match="one of 100 class names"):
        split_of_classes(names, SplitConfig(test=("x",)), data="toy")


def test_indices_are_of_the_right_classes() -> None:
    labels = np.array([0, 1, 2, 1, 0, 2])
    splits = indices_of(labels, "abc", {"a": "test", "b": "train", "c": "train"})
    assert list(splits) == ["train", "test"]
    assert splits["train"].tolist() == [1, 2, 3, 5]
    assert splits["test"].tolist() == [0, 4]
    assert splits["test"].dtype == np.int64


def test_hold_out_takes_the_last_train_classes_only() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    splits = hold_out_last({"train": np.array([5, 0, 2, 4]), "test": np.array([6, 7])}, labels, 1, data="toy")
    assert splits["train"].tolist() == [0, 2]
    assert splits["val"].tolist() == [5, 4]
    assert splits["test"].tolist() == [6, 7]


def test_hold_out_refuses_what_it_cannot_do() -> None:
    labels = np.array([0, 0, 1, 1])
    train = {"train": np.arange(4)}
    with pytest.raises(DataError, match=r"val_classes=2 .* got 2 train classes; fix: set val_classes below 2"):
        hold_out_last(train, labels, 2, data="toy")
    with pytest.raises(DataError, match="no val split"):
        hold_out_last({"train": np.array([0]), "val": np.array([2])}, labels, 1, data="toy")
    with pytest.raises(DataError, match="a train split"):
        hold_out_last({"test": np.array([2])}, labels, 1, data="toy")


@pytest.mark.parametrize("wrong", [{"test_fraction": 1}, {"val_fraction": -0.1}, {"tets": ["a"]}])
def test_config_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SplitConfig.model_validate(wrong)

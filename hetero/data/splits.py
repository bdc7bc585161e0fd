"""Class-disjoint splits for data that carries none: by explicit lists, or by a hash of the class names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hetero.errors import ConfigError, DataError, nearest

SPLIT_NAMES = ("train", "val", "test")


class SplitConfig(BaseModel):
    """How to divide classes (never images of a class) into ``train``, ``val`` and ``test``.

    Attributes:
        val_fraction: share of all classes that goes into ``val``; 0 makes no such split.
        test_fraction: share of all classes that goes into ``test``; 0 makes no such split.
        seed: another seed, another division. A class keeps its place in the shuffle when others come or go,
            because the shuffle sorts by a hash of the seed and the class name, not by position.
        train, val, test: explicit lists of class names. Where any is given the fractions do not count;
            classes in no list are trained on if ``train`` is absent, and in no split at all if it is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.3, ge=0, lt=1)
    seed: int = 0
    train: tuple[str, ...] | None = None
    val: tuple[str, ...] | None = None
    test: tuple[str, ...] | None = None

    @property
    def explicit(self) -> dict[str, tuple[str, ...]]:
        """The lists that were given, by split name; empty when the fractions count."""
        lists = {"train": self.train, "val": self.val, "test": self.test}
        return {name: classes for name, classes in lists.items() if classes is not None}


def shuffled(class_names: Sequence[str], seed: int) -> list[str]:
    """Class names sorted by SHA-256 of ``"<seed>:<name>"``: a shuffle that does not depend on their order."""
    return sorted(class_names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def split_of_classes(class_names: Sequence[str], config: SplitConfig, *, data: str) -> dict[str, str]:
    """Map each class name to its split; classes in no split are absent.

    Args:
        class_names: all classes.
        config: what to do.
        data: name of the data, for messages.

    Raises:
        ConfigError: an explicit list names an unknown class, a class is listed twice, or the fractions leave
            no class to train on.
    """
    return _from_lists(class_names, config, data) if config.explicit else _by_hash(class_names, config, data)


def indices_of(labels: np.ndarray, class_names: Sequence[str], owner: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Image indices (``int64``, ascending) of each split that has classes, in the order train, val, test.

    Args:
        labels: ``int [n]`` indices into ``class_names``.
        class_names: all classes.
        owner: class name to split name, as :func:`split_of_classes` gives it.
    """
    place = np.array([SPLIT_NAMES.index(owner[name]) if name in owner else -1 for name in class_names])
    of_image = place[labels]
    return {name: np.flatnonzero(of_image == i) for i, name in enumerate(SPLIT_NAMES) if (place == i).any()}


def hold_out_last(
    splits: Mapping[str, np.ndarray], labels: np.ndarray, num_classes: int, *, data: str
) -> dict[str, np.ndarray]:
    """Move the images of the last ``num_classes`` train classes, by label, into a new split ``val``.

    Contiguous on purpose: where neighbouring classes are alike (the characters of one alphabet), a random
    choice would leave near relatives of each validation class in train and make validation look too good.

    Raises:
        DataError: no train split, a val split is there already, or too few train classes.
    """
    if "train" not in splits or "val" in splits:
        raise DataError(
            f"cannot hold out val_classes={num_classes} of dataset {data!r}",
            got=f"splits {', '.join(splits)}",
            expected="a train split and no val split",
            fix="set val_classes to 0, or, where hetero divides the classes, split.val_fraction to 0",
        )
    train = splits["train"]
    classes = np.unique(labels[train])
    if num_classes >= len(classes):
        raise DataError(
            f"cannot hold out val_classes={num_classes} of dataset {data!r}",
            got=f"{len(classes)} train classes",
            fix=f"set val_classes below {len(classes)}",
        )
    held = np.isin(labels[train], classes[len(classes) - num_classes :])
    return {**splits, "train": train[~held], "val": train[held]}


def _from_lists(class_names: Sequence[str], config: SplitConfig, data: str) -> dict[str, str]:
    owner: dict[str, str] = {}
    known = set(class_names)
    for split, classes in config.explicit.items():
        for name in classes:
            if name not in known:
                raise ConfigError(
                    f"split.{split} of dataset {data!r} names an unknown class",
                    got=repr(name),
                    expected=_nearest_classes(name, class_names),
                    fix="correct the name, or remove it from the list",
                )
            if name in owner:
                where = f"split.{owner[name]} and split.{split}" if owner[name] != split else f"split.{split}, twice"
                raise ConfigError(
                    f"class {name!r} of dataset {data!r} is listed in {where}",
                    expected="class-disjoint splits, so that test classes are never trained on",
                    fix="leave the class in one list, once",
                )
            owner[name] = split
    if config.train is None:
        owner.update({name: "train" for name in class_names if name not in owner})
    return owner


def _by_hash(class_names: Sequence[str], config: SplitConfig, data: str) -> dict[str, str]:
    total = len(class_names)
    counts = {
        name: max(1, round(share * total)) if share else 0
        for name, share in (("test", config.test_fraction), ("val", config.val_fraction))
    }
    if sum(counts.values()) >= total:
        raise ConfigError(
            f"split.val_fraction {config.val_fraction} and split.test_fraction {config.test_fraction} leave "
            f"dataset {data!r} no class to train on",
            got=f"{total} classes, of which {counts['val']} val and {counts['test']} test",
            fix="lower the fractions (0 makes no such split) or add classes",
        )
    order = shuffled(class_names, config.seed)
    splits = ["test"] * counts["test"] + ["val"] * counts["val"]
    splits += ["train"] * (total - len(splits))
    return dict(zip(order, splits, strict=True))


def _nearest_classes(name: str, class_names: Sequence[str]) -> str:
    few = 20  # beyond that a full listing hides the message
    return nearest(name, class_names) if len(class_names) <= few else f"one of {len(class_names)} class names"

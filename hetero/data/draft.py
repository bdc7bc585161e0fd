"""What a reader has found, and the rules common to all readers that turn it into a :class:`Dataset`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hetero.data.dataset import NO_GROUP, Dataset
from hetero.data.splits import SplitConfig, hold_out_last, indices_of, split_of_classes
from hetero.errors import ConfigError, DataError

_NAMED_IN_MESSAGE = 5  # classes listed by name before "and … more"


@dataclass(frozen=True)
class Draft:
    """Fields as of :class:`Dataset`, not checked yet; ``splits`` is None where the data carries none.

    ``places`` says where a class was found ("folder …"), for messages.
    """

    name: str
    images: np.ndarray | tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: Mapping[str, np.ndarray] | None = None
    roles: np.ndarray | None = None
    groups: np.ndarray | None = None
    skipped: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    boxes: np.ndarray | None = None
    inverted: bool = False


def finish(
    draft: Draft,
    *,
    split: SplitConfig | None,
    val_classes: int,
    min_images_per_class: int,
    drop_small_classes: bool,
) -> Dataset:
    """Apply the class-size rule, then the splits, and check everything.

    Raises:
        ConfigError: ``split`` is given for data that carries its own splits, or cannot be applied.
        DataError: an empty or too small class, or anything :class:`Dataset` refuses.
    """
    if split is not None and draft.splits is not None:
        raise ConfigError(
            f"dataset {draft.name!r} carries its own splits, and the config has a section 'split' as well",
            got=f"splits {', '.join(draft.splits)} in the data",
            fix="remove 'split' from the config (to hold validation classes out of train, use val_classes)",
        )
    twice = [name for name, count in Counter(draft.class_names).items() if count > 1]
    if twice:
        raise DataError(f"dataset {draft.name!r} has two classes named {twice[0]!r}", fix="rename one of them")
    draft = _without_small_classes(draft, min_images_per_class, drop_small_classes)
    if draft.splits is not None:
        splits = dict(draft.splits)
    else:
        owner = split_of_classes(draft.class_names, split or SplitConfig(), data=draft.name)
        splits = indices_of(draft.labels, draft.class_names, owner)
    if val_classes:
        splits = hold_out_last(splits, draft.labels, val_classes, data=draft.name)
    return Dataset(
        name=draft.name,
        images=draft.images,
        labels=draft.labels,
        class_names=draft.class_names,
        splits=splits,
        roles=draft.roles,
        groups=draft.groups,
        skipped=draft.skipped,
        boxes=draft.boxes,
        inverted=draft.inverted,
    )


def _without_small_classes(draft: Draft, minimum: int, drop: bool) -> Draft:
    counts = np.bincount(draft.labels, minlength=len(draft.class_names))
    small = np.flatnonzero(counts < minimum)
    if len(small) == 0:
        return draft
    if len(small) == len(draft.class_names):
        raise DataError(
            f"dataset {draft.name!r} has no class with {minimum} images",
            got=f"{len(draft.class_names)} classes with {len(draft.labels)} images together",
            fix="check the path, or lower min_images_per_class",
        )
    if not drop:
        raise _small_class_error(draft, counts, small, minimum)
    return _drop_classes(draft, counts, small)


def _small_class_error(draft: Draft, counts: np.ndarray, small: np.ndarray, minimum: int) -> DataError:
    first = int(small[0])
    name = draft.class_names[first]
    where = draft.places.get(name)
    others = [repr(draft.class_names[i]) for i in small[1 : 1 + _NAMED_IN_MESSAGE]]
    more = len(small) - 1 - len(others)
    what = f"class {name!r} of dataset {draft.name!r}" + (f" ({where})" if where else "")
    what += " has no image" if counts[first] == 0 else f" has {'one image' if counts[first] == 1 else 'few images'}"
    if others:
        what += f"; too few, too: {', '.join(others)}" + (f" and {more} more" if more else "")
    return DataError(
        what,
        got="1 image" if counts[first] == 1 else f"{counts[first]} images",
        expected=f"at least {minimum}: an image alone in its class has nothing to match",
        fix="add images, or leave such classes out with drop_small_classes: true",
    )


def _drop_classes(draft: Draft, counts: np.ndarray, small: np.ndarray) -> Draft:
    keep_class = np.ones(len(draft.class_names), bool)
    keep_class[small] = False
    keep = keep_class[draft.labels]
    new_label = np.cumsum(keep_class) - 1
    new_index = np.where(keep, np.cumsum(keep) - 1, -1)
    kept = np.flatnonzero(keep)
    images = draft.images
    splits = draft.splits
    if splits is not None:
        mapped = {name: new_index[indices] for name, indices in splits.items()}
        splits = {name: indices[indices >= 0] for name, indices in mapped.items()}
    lines = [
        f"class {draft.class_names[i]!r}: left out with its {counts[i]} images (drop_small_classes)" for i in small
    ]
    return replace(
        draft,
        images=images[kept] if isinstance(images, np.ndarray) else tuple(images[i] for i in kept.tolist()),
        labels=new_label[draft.labels[kept]],
        class_names=tuple(name for name, wanted in zip(draft.class_names, keep_class, strict=True) if wanted),
        splits=splits,
        roles=None if draft.roles is None else draft.roles[kept],
        groups=None if draft.groups is None else draft.groups[kept],
        boxes=None if draft.boxes is None else draft.boxes[kept],
        skipped=(*draft.skipped, *lines),
    )


def group_numbers(keys: Sequence[str | None]) -> np.ndarray:
    """Number equal keys alike, ``int64 [n]``; None and the empty string are ``NO_GROUP``."""
    number = {key: i for i, key in enumerate(sorted({key for key in keys if key}))}
    return np.array([number[key] if key else NO_GROUP for key in keys], dtype=np.int64)

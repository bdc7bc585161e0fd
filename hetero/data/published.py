"""What the readers of published data sets share: their keys, and how what they found becomes a :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hetero.data.dataset import ROLE_BOTH, Dataset
from hetero.data.draft import Draft, finish, group_numbers
from hetero.data.files import unusable
from hetero.errors import DataError


class PublishedConfig(BaseModel):
    """Keys of every reader of a published data set; its own splits count, so there is no key ``split``.

    Attributes:
        path: the folder that the download unpacks to; see docs/data.md for what must be in it.
        val_classes: hold the last so many train classes out as ``val`` (0: none).
        skip_bad: leave missing, unreadable and repeated pictures and empty boxes out and list them, instead of failing.
        min_images_per_class: fewer is an error, or the class is left out with ``drop_small_classes``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    val_classes: int = Field(default=0, ge=0)
    skip_bad: bool = False
    min_images_per_class: int = Field(default=2, ge=1)
    drop_small_classes: bool = False


@dataclass(frozen=True)
class Picture:
    """One picture, or one thing in it, as a list or a folder names it.

    Attributes:
        path: the file.
        key: sorts the classes, and is equal for pictures of one class alone.
        class_name: of the class with this key.
        split: ``train`` or ``test``.
        listed: where this was read ("file … line 3"), for messages.
        role: as of :class:`Dataset`.
        group: pictures of one group never match each other; None: of none.
        box: left, top, right, bottom, as of :class:`Dataset`; of all pictures or of none.
    """

    path: Path
    key: Any
    class_name: str
    split: str
    listed: str
    role: int = ROLE_BOTH
    group: str | None = None
    box: tuple[int, int, int, int] | None = None


def assemble(name: str, pictures: Sequence[Picture], config: PublishedConfig, *, inverted: bool = False) -> Dataset:
    """Check that the files are there, number the classes in the order of their keys, and apply the common rules.

    Raises:
        DataError: a class in two splits, a split without pictures, a class with too few, or anything that
            :class:`Dataset` refuses; without ``skip_bad`` also a picture that is listed but absent or listed twice,
            or a box that holds no pixel.
    """
    _refuse_shared_classes(pictures)
    for split in ("train", "test"):
        if not any(picture.split == split for picture in pictures):
            raise DataError(f"{config.path} has no picture to {split} on", fix="download and unpack the data again")
    names = {picture.key: picture.class_name for picture in pictures}
    number = {key: label for label, key in enumerate(sorted(names))}
    skipped: list[str] = []
    for part in (_once, _with_pixels, _present, _sound):
        pictures, lines = part(pictures, config.skip_bad)
        skipped += lines
    draft = Draft(
        name=name,
        images=tuple(picture.path for picture in pictures),
        labels=np.array([number[picture.key] for picture in pictures], dtype=np.int64),
        class_names=tuple(names[key] for key in number),
        splits={
            split: np.array([i for i, picture in enumerate(pictures) if picture.split == split], dtype=np.int64)
            for split in ("train", "test")
        },
        roles=_unless_all(ROLE_BOTH, [picture.role for picture in pictures]),
        groups=None if all(p.group is None for p in pictures) else group_numbers([p.group for p in pictures]),
        skipped=tuple(skipped),
        boxes=_boxes(pictures),
        inverted=inverted,
    )
    return finish(
        draft,
        split=None,
        val_classes=config.val_classes,
        min_images_per_class=config.min_images_per_class,
        drop_small_classes=config.drop_small_classes,
    )


def _refuse_shared_classes(pictures: Sequence[Picture]) -> None:
    first: dict[Any, Picture] = {}
    for picture in pictures:
        other = first.setdefault(picture.key, picture)
        if other.split != picture.split:
            raise DataError(
                f"the class {picture.class_name!r} is in {other.split} and in {picture.split}",
                got=f"{other.listed} and {picture.listed}",
                expected="class-disjoint splits, so that test classes are never trained on",
                fix="download the list again, or put every picture of the class into one split",
            )


_Kept = tuple[Sequence[Picture], list[str]]
"""The pictures that can be used, and a line for each other."""


def _once(pictures: Sequence[Picture], skip: bool) -> _Kept:
    first: dict[Any, Picture] = {}
    repeats = [p for p in pictures if first.setdefault((p.path, p.box), p) is not p]
    if repeats and not skip:
        again = repeats[0]
        raise DataError(
            f"{again.path} is listed twice",
            got=f"{first[again.path, again.box].listed} and {again.listed}",
            expected="each picture once: a copy of the query in the gallery is a match that means nothing",
            fix="remove one of the two, or leave repeats out with skip_bad: true",
        )
    return list(first.values()), [f"{picture.path}: repeated by {picture.listed}" for picture in repeats]


def _with_pixels(pictures: Sequence[Picture], skip: bool) -> _Kept:
    empty = [p for p in pictures if p.box is not None and (p.box[0] >= p.box[2] or p.box[1] >= p.box[3])]
    if empty and not skip:
        raise DataError(
            f"{empty[0].listed}: the box holds no pixel",
            got=f"left, top, right, bottom {empty[0].box}",
            expected="left < right and top < bottom",
            fix="correct the box, or leave such pictures out with skip_bad: true",
        )
    return _without(pictures, empty), [f"{picture.path}: an empty box in {picture.listed}" for picture in empty]


def _present(pictures: Sequence[Picture], skip: bool) -> _Kept:
    absent = [picture for picture in pictures if not picture.path.is_file()]
    if absent and not skip:
        raise DataError(
            f"{absent[0].listed}: no such picture: {absent[0].path}",
            got=f"{len(absent)} absent of {len(pictures)}",
            expected="every picture that is listed",
            fix="unpack the whole download, or leave absent pictures out with skip_bad: true",
        )
    return _without(pictures, absent), [f"{picture.path}: no such file" for picture in absent]


def _sound(pictures: Sequence[Picture], skip: bool) -> _Kept:
    bad = unusable([picture.path for picture in pictures], skip_bad=skip, boxes=_boxes(pictures))
    return [picture for i, picture in enumerate(pictures) if i not in bad], list(bad.values())


def _without(pictures: Sequence[Picture], dropped: Sequence[Picture]) -> list[Picture]:
    gone = {id(picture) for picture in dropped}
    return [picture for picture in pictures if id(picture) not in gone]


def _boxes(pictures: Sequence[Picture]) -> np.ndarray | None:
    boxes = [picture.box for picture in pictures if picture.box is not None]
    return np.array(boxes, dtype=np.int32) if boxes else None


def _unless_all(value: int, values: Sequence[int]) -> np.ndarray | None:
    return None if all(one == value for one in values) else np.array(values, dtype=np.int8)

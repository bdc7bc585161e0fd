"""Reader for a folder of images: one sub-folder a class, or ``train/ val/ test/`` with such sub-folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hetero.data.dataset import Dataset
from hetero.data.draft import Draft, finish, group_numbers
from hetero.data.files import IMAGE_ENDINGS, is_picture, unusable, visible_files
from hetero.data.splits import SPLIT_NAMES, SplitConfig
from hetero.errors import DataError


class FolderConfig(BaseModel):
    """A folder with one sub-folder a class; see docs/data.md.

    Attributes:
        path: the folder.
        split: how to make splits, for a folder without ``train``, ``val`` and ``test`` sub-folders.
        val_classes: hold the last so many train classes (by name) out as ``val`` (0: none).
        group_pattern: regular expression with one group ``(…)``, searched in each file name; files where it
            captures the same text never match each other, files where it is not found are in no group.
        skip_bad: leave unreadable images out and list them, instead of failing when they are read.
        min_images_per_class: fewer is an error, or the class is left out with ``drop_small_classes``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["folder"] = "folder"
    path: Path
    split: SplitConfig | None = None
    val_classes: int = Field(default=0, ge=0)
    group_pattern: str | None = None
    skip_bad: bool = False
    min_images_per_class: int = Field(default=2, ge=1)
    drop_small_classes: bool = False

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                count = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"no valid regular expression: {error}") from None
            if count != 1:
                raise ValueError(f"needs exactly one group (…), has {count}")
        return pattern


@dataclass(frozen=True)
class _Found:
    path: Path
    class_name: str
    split: str | None


def read_folder(config: FolderConfig) -> Dataset:
    """List the images; none is decoded unless ``skip_bad`` asks for a check of each.

    Raises:
        DataError: no such folder, an empty class, a class with too few images, a class in two splits.
        ImageError: a picture of an unsupported type, unless ``skip_bad``.
        ConfigError: ``split`` together with split sub-folders.
    """
    root = config.path
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder" if root.exists() else f"no such folder: {root}",
            expected="a folder with one sub-folder a class",
            fix="correct data.path in the config",
        )
    tops = _subfolders(root)
    split_layout = _is_split_layout(root, tops)
    class_folders: list[tuple[str | None, Path]] = [(None, folder) for folder in tops]
    if split_layout:
        class_folders = [(split.name, folder) for split in tops for folder in _subfolders(split)]
    if not class_folders:
        raise DataError(
            f"folder {root} has no class folders",
            expected="one sub-folder a class, with images in it",
            fix="move the images of each class into a sub-folder named after the class",
        )
    places = _places(root, class_folders)
    above = [root, *(tops if split_layout else ())]
    strays = sorted(path for folder in above for path in folder.iterdir() if path.is_file() and is_picture(path))
    found = [_Found(path, folder.name, split) for split, folder in class_folders for path in _pictures(folder)]
    bad = unusable([item.path for item in found], skip_bad=config.skip_bad)
    found = [item for i, item in enumerate(found) if i not in bad]

    class_names = tuple(sorted(places))
    number = {name: i for i, name in enumerate(class_names)}
    draft = Draft(
        name=root.resolve().name,
        images=tuple(item.path for item in found),
        labels=np.array([number[item.class_name] for item in found], dtype=np.int64),
        class_names=class_names,
        splits=_splits(found) if split_layout else None,
        groups=_groups(found, config.group_pattern),
        skipped=(*bad.values(), *(f"{path}: in no class folder" for path in strays)),
        places=places,
    )
    return finish(
        draft,
        split=config.split,
        val_classes=config.val_classes,
        min_images_per_class=config.min_images_per_class,
        drop_small_classes=config.drop_small_classes,
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_split_layout(root: Path, tops: Sequence[Path]) -> bool:
    """Whether the top level holds splits. One class may be called ``train`` (a vehicle), but not two."""
    names = {folder.name for folder in tops}
    known, others = names & set(SPLIT_NAMES), sorted(names - set(SPLIT_NAMES))
    if not others:
        return bool(known)
    if len(known) > 1:
        raise DataError(
            f"folder {root} mixes splits and classes",
            got=f"{', '.join(sorted(known))} beside {', '.join(others[:5])}",
            expected="only train, val and test, or only class folders",
            fix="move the other folders into a split, or out of the way",
        )
    return False


def _places(root: Path, class_folders: Sequence[tuple[str | None, Path]]) -> dict[str, str]:
    """Where each class is, for messages; a class with folders in two splits is refused, even an empty one."""
    places: dict[str, str] = {}
    owner: dict[str, str | None] = {}
    for split, folder in class_folders:
        if folder.name in owner:
            raise DataError(
                f"splits {owner[folder.name]!r} and {split!r} of {root} share the class {folder.name!r}",
                expected="class-disjoint splits, so that test classes are never trained on",
                fix="put every image of a class into one split",
            )
        owner[folder.name] = split
        none = "" if _pictures(folder) else f", where no file ends in {' '.join(IMAGE_ENDINGS)}"
        places[folder.name] = f"folder {folder}{none}"
    return places


def _pictures(folder: Path) -> list[Path]:
    """Every picture below a class folder, sorted; other files (notes, thumbnail databases) are no concern."""
    return sorted(path for path in visible_files(folder) if is_picture(path))


def _splits(found: Sequence[_Found]) -> dict[str, np.ndarray]:
    indices: dict[str, list[int]] = {}
    for i, item in enumerate(found):
        indices.setdefault(str(item.split), []).append(i)
    return {name: np.array(indices[name], dtype=np.int64) for name in SPLIT_NAMES if name in indices}


def _groups(found: Sequence[_Found], pattern: str | None) -> np.ndarray | None:
    if pattern is None:
        return None
    keys = [match.group(1) if (match := re.search(pattern, item.path.name)) else None for item in found]
    return group_numbers(keys)

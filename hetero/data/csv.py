"""Reader for a CSV manifest: one line an image, columns path and label, optionally split, role and group."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hetero.data.dataset import ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.data.draft import Draft, finish, group_numbers
from hetero.data.files import unusable
from hetero.data.splits import SPLIT_NAMES, SplitConfig
from hetero.errors import DataError, nearest

REQUIRED_COLUMNS = ("path", "label")
OPTIONAL_COLUMNS = ("split", "role", "group")
ROLES = {"both": ROLE_BOTH, "query": ROLE_QUERY, "gallery": ROLE_GALLERY}


class CsvConfig(BaseModel):
    """A UTF-8 CSV file with a header line; see docs/data.md.

    Attributes:
        path: the file. Relative image paths in it start from the folder it is in.
        split: how to make splits, for a file without the column ``split``.
        val_classes: hold the last so many train classes (by name) out as ``val`` (0: none).
        skip_bad: leave missing and unreadable images out and list them, instead of failing.
        min_images_per_class: fewer is an error, or the class is left out with ``drop_small_classes``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["csv"] = "csv"
    path: Path
    split: SplitConfig | None = None
    val_classes: int = Field(default=0, ge=0)
    skip_bad: bool = False
    min_images_per_class: int = Field(default=2, ge=1)
    drop_small_classes: bool = False


@dataclass(frozen=True)
class _Row:
    line: int
    path: Path
    label: str
    split: str | None
    role: int
    group: str


def read_csv(config: CsvConfig) -> Dataset:
    """Read the manifest and look whether each image file exists; only with ``skip_bad`` is each decoded.

    Raises:
        DataError: no such file, not UTF-8, a column missing, a blank path or label, an unknown split or role,
            an image listed twice or missing on disk, a class with too few images, a class in two splits.
        ImageError: a picture of an unsupported type, unless ``skip_bad``.
        ConfigError: ``split`` together with the column ``split``.
    """
    columns, rows = _rows(config.path)
    # a class none of whose images can be used stays in the list, so that it is refused rather than forgotten
    class_names = tuple(sorted({row.label for row in rows}))
    rows, missing = _without_missing_files(rows, config)
    bad = unusable([row.path for row in rows], skip_bad=config.skip_bad)
    rows = [row for i, row in enumerate(rows) if i not in bad]
    number = {name: i for i, name in enumerate(class_names)}
    draft = Draft(
        name=config.path.stem,
        images=tuple(row.path for row in rows),
        labels=np.array([number[row.label] for row in rows], dtype=np.int64),
        class_names=class_names,
        splits=_splits(rows) if "split" in columns else None,
        roles=np.array([row.role for row in rows], dtype=np.int8) if "role" in columns else None,
        groups=group_numbers([row.group for row in rows]) if "group" in columns else None,
        skipped=(*missing, *bad.values()),
    )
    return finish(
        draft,
        split=config.split,
        val_classes=config.val_classes,
        min_images_per_class=config.min_images_per_class,
        drop_small_classes=config.drop_small_classes,
    )


def _rows(path: Path) -> tuple[Sequence[str], list[_Row]]:
    if not path.is_file():
        raise DataError(f"no such file: {path}", fix="correct data.path in the config")
    rows: list[_Row] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:  # -sig: spreadsheets write a byte-order mark
            reader = csv.DictReader(stream, strict=True)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            _check_columns(path, columns)
            reader.fieldnames = columns
            for record in reader:
                if None in record or None in record.values():
                    raise DataError(
                        f"{path} line {reader.line_num}: wrong number of values",
                        expected=f"{len(columns)}: {', '.join(columns)}",
                        fix='add the missing comma, or put values that contain commas into "quotes"',
                    )
                rows.append(_row(path, reader.line_num, record))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not a UTF-8 CSV file", got=error, fix="save it as CSV with UTF-8 encoding"
        ) from error
    if not rows:
        raise DataError(f"{path} lists no image", expected="one line an image below the header", fix="add lines")
    _refuse_repeats(path, rows)
    return columns, rows


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    known = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}",
            got=f"columns {', '.join(columns) or 'none'}",
            expected=f"{', '.join(REQUIRED_COLUMNS)} and optionally {', '.join(OPTIONAL_COLUMNS)}",
            fix="correct the header line",
        )
    for name in columns:
        if columns.count(name) > 1:
            raise DataError(f"{path} has two columns {name!r}", fix="remove or rename one of them")
        close = get_close_matches(name.lower(), known, n=1, cutoff=0.8)
        if name not in known and close:
            raise DataError(
                f"{path} has a column {name!r}, which would be ignored",
                expected=f"{close[0]!r}, if that is meant",
                fix="rename the column to that, or to something less alike",
            )


def _row(path: Path, line: int, record: dict[str, str]) -> _Row:
    values = {name: value.strip() for name, value in record.items()}

    def one_of(column: str, choices: Sequence[str]) -> str:
        if values[column] not in choices:
            raise DataError(
                f"{path} line {line}: unknown {column}",
                got=repr(values[column]),
                expected=nearest(values[column], choices),
                fix="correct the line",
            )
        return values[column]

    for column in REQUIRED_COLUMNS:
        if not values[column]:
            raise DataError(f"{path} line {line}: the {column} is blank", fix=f"write the {column} or remove the line")
    return _Row(
        line=line,
        path=path.parent / values["path"],
        label=values["label"],
        split=one_of("split", SPLIT_NAMES) if "split" in values else None,
        role=ROLES[one_of("role", tuple(ROLES))] if "role" in values else ROLE_BOTH,
        group=values.get("group", ""),
    )


def _refuse_repeats(path: Path, rows: Sequence[_Row]) -> None:
    first: dict[Path, int] = {}
    for row in rows:
        if row.path in first:
            raise DataError(
                f"{path} lists the image {row.path} twice",
                got=f"lines {first[row.path]} and {row.line}",
                expected="each image once: a copy of the query in the gallery is a match that means nothing",
                fix="remove one of the lines",
            )
        first[row.path] = row.line


def _without_missing_files(rows: list[_Row], config: CsvConfig) -> tuple[list[_Row], tuple[str, ...]]:
    missing = [row for row in rows if not row.path.is_file()]
    if missing and not config.skip_bad:
        raise DataError(
            f"{config.path} line {missing[0].line}: no such image file: {missing[0].path}",
            got=f"{len(missing)} missing of {len(rows)}",
            expected="paths relative to the folder of the CSV file, or absolute paths",
            fix="correct the path, or leave missing images out with skip_bad: true",
        )
    gone = {row.line for row in missing}
    return [row for row in rows if row.line not in gone], tuple(f"{row.path}: no such file" for row in missing)


def _splits(rows: Sequence[_Row]) -> dict[str, np.ndarray]:
    splits = {name: [i for i, row in enumerate(rows) if row.split == name] for name in SPLIT_NAMES}
    return {name: np.array(indices, dtype=np.int64) for name, indices in splits.items() if indices}

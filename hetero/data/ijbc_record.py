"""What IJB-C is once read, and what both of its layouts share: each face once, templates over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from hetero.data.dataset import Dataset
from hetero.data.files import unusable
from hetero.data.ijbc_files import Box, Face, line_of
from hetero.data.templates import TemplatePairs, TemplateSet
from hetero.errors import DataError

GALLERIES = ("G1", "G2")
MIXED = {name: f"ijbc_1N_gallery_{name}.csv" for name in GALLERIES} | {"probe": "ijbc_1N_probe_mixed.csv"}
"""Lists of the 1:N mixed search by role, as the older releases and the derived lists name them."""


class IjbcConfig(BaseModel):
    """Where IJB-C is; see docs/data.md.

    Attributes:
        path: the folder that holds ``protocols/`` (the release) or ``meta/`` (the derived lists).
        layout: which of the two, where both are there.
        protocol: verification, identification, or None for whatever has its files there.
        skip_bad: leave missing and unreadable images out and list them, instead of failing. Each is then decoded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ijbc"] = "ijbc"
    path: Path
    layout: Literal["protocols", "meta"] | None = None
    protocol: Literal["1:1", "1:N"] | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class Ijbc:
    """The benchmark.

    Attributes:
        dataset: each face once, subjects as classes, all in split ``test``; with ``boxes`` where the images are whole
            pictures.
        templates: which images make which template.
        pairs: of the 1:1 protocol; None without it.
        galleries: of the 1:N protocol, ``int64`` rows of the templates by name (``G1``, ``G2``); empty without it.
        probes: of the 1:N protocol, ``int64`` rows of the templates; None without it.
    """

    dataset: Dataset
    templates: TemplateSet
    pairs: TemplatePairs | None
    galleries: Mapping[str, np.ndarray]
    probes: np.ndarray | None


def assemble(config: IjbcConfig, root: Path, content: Mapping[int, list[Face]]) -> tuple[Dataset, TemplateSet]:
    """Each face once in the dataset, however many templates hold it.

    Args:
        config: says what to do with images that are missing or cannot be read.
        root: the folder of the images.
        content: the faces of each template id, all of one subject and with a medium.

    Raises:
        DataError, ImageError: an image that is missing or of an unsupported type, unless ``skip_bad``.
    """
    ids = sorted(content)
    number: dict[tuple[str, Box | None, int], int] = {}
    images, rows, media = [], [], []
    for row, template in enumerate(ids):
        for face in content[template]:
            images.append(number.setdefault((face.name, face.box, face.subject), len(number)))
            rows.append(row)
            media.append(face.medium)
    paths = [root / name for name, _, _ in number]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    if missing and not config.skip_bad:
        raise DataError(
            f"no such image file: {paths[missing[0]]}",
            got=f"{len(missing)} missing of {len(paths)}",
            fix="unpack all images, or leave missing ones out with skip_bad: true",
        )
    bad = {i: f"{paths[i]}: no such file" for i in missing}
    there = [i for i in range(len(paths)) if i not in bad]
    cut = [box for _, box, _ in number]
    boxes = None if None in cut else np.array(cut, np.int32)
    found = unusable([paths[i] for i in there], skip_bad=config.skip_bad, boxes=None if boxes is None else boxes[there])
    bad |= {there[i]: line for i, line in found.items()}
    kept = np.array([i not in bad for i in range(len(paths))], bool)
    place = np.cumsum(kept) - 1
    subjects = np.unique([content[template][0].subject for template in ids])
    labels = np.searchsorted(subjects, [subject for _, _, subject in number])[kept]
    dataset = Dataset(
        name="IJB-C",
        images=tuple(path for path, use in zip(paths, kept, strict=True) if use),
        labels=labels,
        class_names=tuple(str(subject) for subject in subjects.tolist()),
        splits={"test": np.arange(len(labels))},
        boxes=None if boxes is None else boxes[kept],
        skipped=tuple(bad[i] for i in sorted(bad)),
    )
    member = np.flatnonzero(kept[np.array(images)])
    templates = TemplateSet(
        ids=np.array(ids),
        subjects=np.searchsorted(subjects, [content[template][0].subject for template in ids]),
        images=place[np.array(images)[member]],
        rows=np.array(rows)[member],
        media=np.array(media)[member],
    )
    return dataset, templates


def rows_of(ids: np.ndarray, listed: np.ndarray, path: Path, delimiter: str | None) -> np.ndarray:
    """The row of each listed template id.

    Args:
        ids: ``int64 [t]``, ascending.
        listed: ``int64 [n]``, one for each line of the file.
        path, delimiter: of the file, for the message.

    Raises:
        DataError: an id that is not there, with its line.
    """
    rows = np.minimum(np.searchsorted(ids, listed), len(ids) - 1)
    unknown = np.flatnonzero(ids[rows] != listed)
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"{path} line {line_of(path, first, delimiter=delimiter)}: unknown template {listed[first]}",
            got=f"{len(unknown)} of {len(listed)} entries name a template without images",
            expected=f"one of the {len(ids)} templates of the lists",
            fix="use the files of one release",
        )
    return rows


def two_subjects(path: Path, line: int, template: int, first: int, second: int) -> DataError:
    """What to raise at a line that gives a template another subject than a line before."""
    return DataError(
        f"{path} line {line}: template {template} has two subjects",
        got=f"{first} and {second}",
        expected="one subject a template",
        fix="unpack the release again",
    )

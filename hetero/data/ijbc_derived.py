"""The lists derived from IJB-C that most published code reads: ``meta/*.txt`` over the crops in ``loose_crop/``."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np

from hetero.data.ijbc_files import (
    Face,
    line_of,
    read_memberships,
    read_table,
    read_template_subjects,
)
from hetero.data.ijbc_record import GALLERIES, MIXED, Ijbc, IjbcConfig, assemble, rows_of, two_subjects
from hetero.data.templates import TemplatePairs
from hetero.errors import DataError


def read_derived(config: IjbcConfig) -> Ijbc:
    """Read this layout; arguments and errors as :func:`hetero.data.ijbc.read_ijbc`.

    Subjects are those of the 1:N lists. Without these only the pairs tell who is who: templates that genuine pairs
    join are one subject, named after the least of them.
    """
    meta = config.path / "meta"
    named = config.protocol == "1:N" or (config.protocol is None and all((meta / n).is_file() for n in MIXED.values()))
    faces = read_memberships(meta / "ijbc_face_tid_mid.txt")
    ids = np.unique([face.template for face in faces])
    roles, subject_of = _search_lists(meta, ids) if named else ({}, {})
    path, pairs = meta / "ijbc_template_pair_label.txt", None
    if not named or (config.protocol is None and path.is_file()):
        pairs = _pairs(path, ids)
    if not named and pairs is not None:
        subject_of = dict(zip(ids.tolist(), _joined(ids, pairs).tolist(), strict=True))
    content: dict[int, list[Face]] = {}
    for face in faces:
        if face.template not in subject_of:
            raise DataError(
                f"template {face.template} of ijbc_face_tid_mid.txt is in none of {', '.join(MIXED.values())}",
                fix="use the files of one release, or only the pairs, with protocol: '1:1'",
            )
        content.setdefault(face.template, []).append(face._replace(subject=subject_of[face.template]))
    dataset, templates = assemble(config, config.path / "loose_crop", content)
    if pairs is not None:
        _refuse_contradictions(path, pairs, templates.subjects)
    galleries = MappingProxyType({name: roles[name] for name in GALLERIES if named})
    return Ijbc(dataset, templates, pairs, galleries, roles.get("probe"))


def _search_lists(meta: Path, ids: np.ndarray) -> tuple[dict[str, np.ndarray], dict[int, int]]:
    """Template rows of each gallery and of the probes, and the subject of each template id."""
    roles: dict[str, np.ndarray] = {}
    subject_of: dict[int, int] = {}
    for role, name in MIXED.items():
        listed = []
        for line, template, subject in read_template_subjects(meta / name):
            if subject_of.setdefault(template, subject) != subject:
                raise two_subjects(meta / name, line, template, subject_of[template], subject)
            listed.append(template)
        roles[role] = np.unique(rows_of(ids, np.array(listed), meta / name, ","))
    return roles, subject_of


def _pairs(path: Path, ids: np.ndarray) -> TemplatePairs:
    table = read_table(path, 3, delimiter=None)
    enroll, probe = (rows_of(ids, table[:, side], path, None) for side in (0, 1))
    wrong = np.flatnonzero((table[:, 2] != 0) & (table[:, 2] != 1))
    if len(wrong):
        raise DataError(
            f"{path} line {line_of(path, int(wrong[0]), delimiter=None)}: the label is neither 0 nor 1",
            got=int(table[wrong[0], 2]),
            fix="repair the line",
        )
    return TemplatePairs(probe, enroll, table[:, 2] == 1)


def _refuse_contradictions(path: Path, pairs: TemplatePairs, subjects: np.ndarray) -> None:
    wrong = np.flatnonzero((subjects[pairs.probe] == subjects[pairs.enroll]) != pairs.same)
    if len(wrong):
        raise DataError(
            f"{path} line {line_of(path, int(wrong[0]), delimiter=None)}: the label contradicts the subjects",
            got=f"label {int(pairs.same[wrong[0]])}, and {len(wrong) - 1} more such lines",
            expected="1 exactly where both templates show one subject, as the other lines and lists have it",
            fix="use the files of one release",
        )


def _joined(ids: np.ndarray, pairs: TemplatePairs) -> np.ndarray:
    """A subject for each template, where only the pairs tell: the least id of those that genuine pairs join to it."""
    leader = np.arange(len(ids))
    left, right = pairs.probe[pairs.same], pairs.enroll[pairs.same]
    while True:
        least = np.minimum(leader[left], leader[right])
        joined = leader.copy()
        for side in (left, right):
            np.minimum.at(joined, side, least)
        if np.array_equal(joined, leader):
            return ids[leader]
        leader = joined

"""The release of IJB-C by NIST: ``protocols/`` with CSV files, ``images/`` with whole pictures, boxes in the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hetero.data.ijbc_files import Face, Sightings, read_faces, read_table, require_file
from hetero.data.ijbc_record import GALLERIES, MIXED, Ijbc, IjbcConfig, assemble, rows_of, two_subjects
from hetero.data.templates import TemplatePairs
from hetero.errors import DataError

_METADATA = ("ijbc_metadata_with_age.csv", "ijbc_metadata.csv", "archive/ijbc_metadata.csv")


def read_release(config: IjbcConfig) -> Ijbc:
    """Read this layout; arguments and errors as :func:`hetero.data.ijbc.read_ijbc`."""
    protocols = config.path / "protocols"
    lists, matches = _release_files(config, protocols)
    content, members = _read_lists(lists, protocols)
    images = config.path / "images"
    dataset, templates = assemble(config, images if images.is_dir() else config.path, content)
    pairs = None
    if matches is not None:
        table = read_table(matches, 2, delimiter=",")
        enroll, probe = (rows_of(templates.ids, table[:, side], matches, ",") for side in (0, 1))
        pairs = TemplatePairs(probe, enroll, templates.subjects[probe] == templates.subjects[enroll])
    if config.protocol == "1:1" or "G1" not in lists:
        return Ijbc(dataset, templates, pairs, MappingProxyType({}), None)
    rows = {role: np.searchsorted(templates.ids, sorted(members[role])) for role in (*GALLERIES, "probe")}
    return Ijbc(dataset, templates, pairs, MappingProxyType({name: rows[name] for name in GALLERIES}), rows["probe"])


def _read_lists(lists: Mapping[str, Path], protocols: Path) -> tuple[dict[int, list[Face]], dict[str, list[int]]]:
    """The faces of each template, and the templates of each list."""
    content: dict[int, list[Face]] = {}
    members: dict[str, list[int]] = {}
    sightings: Sightings | None = None
    for role, path in lists.items():
        read: dict[int, list[Face]] = {}
        for line, face in read_faces(path):
            if face.medium is None:
                sightings = sightings or Sightings(_metadata(protocols))
                face = face._replace(medium=sightings.medium(face, f"{path} line {line}"))
            faces = read.setdefault(face.template, [])
            faces.append(face)
            if faces[0].subject != face.subject:
                raise two_subjects(path, line, face.template, faces[0].subject, face.subject)
        for template, faces in read.items():
            if sorted(content.setdefault(template, faces)) != sorted(faces):
                raise DataError(
                    f"{path}: template {template} has other images than in another list",
                    expected="one content a template",
                    fix="read one protocol at a time, with protocol: '1:1' or '1:N'",
                )
        members[role] = list(read)
    return content, members


def _release_files(config: IjbcConfig, protocols: Path) -> tuple[dict[str, Path], Path | None]:
    """Template lists by role, and the list of pairs where the 1:1 protocol is wanted.

    The release has a folder a test; before, and still in ``archive/``, the galleries and mixed probes served both.
    """
    tests = {"1:1": protocols / "test1", "1:N": protocols / "test4"}
    if any(folder.is_dir() for folder in tests.values()):
        wanted = [name for name, folder in tests.items() if config.protocol in (name, None) and folder.is_dir()]
        wanted = wanted if config.protocol is None else [config.protocol]
        lists: dict[str, Path] = {}
        if "1:1" in wanted:
            lists |= {role: tests["1:1"] / f"{role}_templates.csv" for role in ("enroll", "verif")}
        if "1:N" in wanted:
            lists |= {name: tests["1:N"] / f"gallery_{name}.csv" for name in GALLERIES}
            lists["probe"] = tests["1:N"] / "probes.csv"
        return lists, tests["1:1"] / "match.csv" if "1:1" in wanted else None
    archive = protocols / "archive"
    folder = archive if (archive / MIXED["G1"]).is_file() else protocols
    matches = folder / "ijbc_11_G1_G2_matches.csv"
    pairs_wanted = config.protocol == "1:1" or (config.protocol is None and matches.is_file())
    lists = {role: folder / name for role, name in MIXED.items()}
    require_file(lists["G1"], "this list, or the folders test1 and test4 of the release")
    return lists, matches if pairs_wanted else None


def _metadata(protocols: Path) -> Path:
    found = [protocols / name for name in _METADATA if (protocols / name).is_file()]
    return require_file(
        found[0] if found else protocols / _METADATA[0],
        "the metadata of the release, which alone tells the frames of one video where lists have no SIGHTING_ID",
    )

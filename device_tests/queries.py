"""Which pictures a device is to find in which gallery, and what the gallery model itself would have found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hetero.config import load_config
from hetero.data.dataset import NO_GROUP, ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.data.pixels import read_pixels
from hetero.errors import DataError, SpaceMismatchError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.gallery import Gallery, Item, open_gallery
from hetero.retrieval.protocol import Protocol
from hetero.workflows.source import open_source, split_to_search

DEFAULT_QUERIES = 200
_NO_PARAGON = "the queries are not in the gallery; --paragon names their gallery-model vectors, from hetero index"


@dataclass(frozen=True)
class QuerySet:
    """Queries ready to be embedded and searched with.

    Attributes:
        name: of the data, such as ``omniglot/test``.
        pixels: ``uint8 [q, h, w, c]``, preprocessed: what a device gets.
        ids: what each query picture is called.
        gallery: ``float32 [n, dim]``, the gallery model's vectors, in the protocol's order.
        gallery_ids: what each gallery picture is called.
        protocol: who may match whom.
        in_gallery: how many queries are gallery pictures themselves, and so never find themselves.
        paragon: ``float32 [q, dim]``, the gallery model's vectors of the queries; None: ``no_paragon`` says why.
        dataset, spec: where the pictures come from, and how they are preprocessed.
    """

    name: str
    pixels: np.ndarray
    ids: tuple[str, ...]
    gallery: np.ndarray
    gallery_ids: tuple[str, ...]
    protocol: Protocol
    in_gallery: int
    paragon: np.ndarray | None
    no_paragon: str | None
    dataset: Dataset
    spec: PreprocessSpec

    def pictures(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The preprocessed pictures of these names that the data has, ``uint8 [h, w, c]`` each."""
        places = {self.dataset.image_id(index): index for index in range(len(self.dataset))}
        known = [name for name in dict.fromkeys(names) if name in places]
        if not known:
            return {}
        return dict(zip(known, read_pixels(self.dataset, [places[name] for name in known], self.spec), strict=True))


def load_queries(
    data: Path,
    gallery: Gallery,
    spec: PreprocessSpec,
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    count: int = DEFAULT_QUERIES,
    seed: int = 0,
    paragon: Path | None = None,
) -> QuerySet:
    """Choose query pictures of a data set that have a right answer in a gallery.

    A query that is itself in the gallery (by its path, or by its folder and file name where the gallery was made
    elsewhere) never finds itself: leave-one-out. Classes are matched by name.

    Args:
        data: run config, folder, CSV manifest or npz file.
        split: whose pictures search; with None, the run config's evaluation's, else the one that is not ``train``, else
            all.
        count: how many are drawn with ``seed``; 0: all.
        paragon: a gallery directory with the gallery model's vectors of the query pictures.

    Raises:
        DataError: no query has a right answer in the gallery, or a picture's names are ambiguous.
        SpaceMismatchError: ``paragon`` is of another space or another gallery model.
    """
    dataset = open_source(data, overrides)
    split = split or _split(dataset, data, overrides)
    indices = dataset.split(split)
    name = dataset.name if split is None else f"{dataset.name}/{split}"
    if dataset.roles is not None:
        indices = indices[dataset.roles[indices] != ROLE_GALLERY]
    rows = np.array([row for row, item in enumerate(gallery.items) if item.role != ROLE_QUERY], np.int64)
    names = [dataset.class_names[dataset.labels[i]] for i in indices]
    class_numbers = {item.class_name: item.label for item in gallery.items}
    labels = np.array([class_numbers.get(name, -1) for name in names], np.int64)
    own = _rows_of([dataset.image_id(int(i)) for i in indices], names, gallery.items)
    protocol = _protocol(labels, own, gallery, rows)
    found = np.flatnonzero(protocol.num_matches > 0)
    if len(found) == 0:
        raise DataError(
            f"no query of {name} has a right answer in {gallery.path}",
            got=f"{len(indices)} pictures of classes such as {_some_classes(dataset, indices)}",
            expected=f"classes of the gallery, such as {', '.join(list(class_numbers)[:3])}, with another picture each",
            fix="name the gallery's own data: one folder a class, or its .csv manifest; or another --split",
        )
    if not (protocol.num_candidates > protocol.num_matches).any():
        raise DataError(
            f"no query of {name} could find a picture of another class, so every model finds all",
            got=f"a gallery of {len(np.unique(protocol.gallery_labels))} class",
            fix="search a gallery of several classes",
        )
    if count:
        found = np.sort(np.random.default_rng(seed).permutation(found)[:count])
    chosen = indices[found]
    protocol = _protocol(labels[found], own[found], gallery, rows)
    pixels = read_pixels(dataset, chosen, spec)
    ids = tuple(dataset.image_id(int(i)) for i in chosen)
    vectors, reason = _paragon(paragon, gallery, own[found], ids, [names[place] for place in found])
    return QuerySet(
        name=name,
        pixels=pixels,
        ids=ids,
        gallery=gallery.vectors[rows],
        gallery_ids=tuple(gallery.items[row].path for row in rows),
        protocol=protocol,
        in_gallery=int(np.isin(own[found], rows).sum()),
        paragon=vectors,
        no_paragon=reason,
        dataset=dataset,
        spec=spec,
    )


def _split(dataset: Dataset, data: Path, overrides: Sequence[str]) -> str | None:
    if data.suffix in (".yaml", ".yml"):
        return load_config(data, overrides).evaluation.split
    return split_to_search(dataset, fix="name one with --split")


def _protocol(labels: np.ndarray, own: np.ndarray, gallery: Gallery, rows: np.ndarray) -> Protocol:
    """Ids are places among the gallery's items; a query that is not there gets one behind them, and no group.

    Groups are the gallery's numbers, which another data set may use for other groups.
    """
    outside = len(gallery.items) + np.arange(len(own))
    gallery_labels = np.array([gallery.items[row].label for row in rows], np.int64)
    groups = np.array([item.group for item in gallery.items], np.int64)
    query_groups = np.where(own >= 0, groups[own], NO_GROUP)
    return Protocol(np.where(own >= 0, own, outside), rows, labels, gallery_labels, query_groups, groups[rows])


def _rows_of(names: Sequence[str], classes: Sequence[str], items: Sequence[Item]) -> np.ndarray:
    """For each picture its place among gallery items, ``int64 [n]``; -1 where it is not there.

    A path is looked for whole; else, as the gallery may have been made on another machine, by its last two parts, among
    items of the same class, and of several the one with the longest common end.

    Raises:
        DataError: several have an equally long one, so that the picture's own cannot be told.
    """
    whole = {item.path: row for row, item in enumerate(items)}
    ends: dict[tuple[str, str], list[int]] = {}
    for row, item in enumerate(items):
        ends.setdefault((item.class_name, "/".join(_parts(item.path)[-2:])), []).append(row)
    found = []
    for name, class_name in zip(names, classes, strict=True):
        parts = _parts(name)
        near = ends.get((class_name, "/".join(parts[-2:])), []) if len(parts) > 1 and name not in whole else []
        lengths = [_common_end(parts, _parts(items[row].path)) for row in near]
        if lengths.count(max(lengths, default=0)) > 1:
            raise DataError(
                "a query may be one of several gallery pictures, so it could find itself",
                got=f"{name}, and {', '.join(items[row].path for row in near[:3])}",
                fix="run where the gallery was made, or index the pictures again here",
            )
        found.append(whole.get(name, near[lengths.index(max(lengths))] if near else -1))
    return np.array(found, np.int64)


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    same = 0
    while same < min(len(first), len(second)) and first[-1 - same] == second[-1 - same]:
        same += 1
    return same


def _paragon(
    path: Path | None, gallery: Gallery, own: np.ndarray, ids: Sequence[str], classes: Sequence[str]
) -> tuple[np.ndarray | None, str | None]:
    """The gallery model's vectors of the queries; without a path the gallery's own, where it has them in any role."""
    if path is None:
        return (gallery.vectors[own], None) if (own >= 0).all() else (None, _NO_PARAGON)
    opened = open_gallery(path)
    for what, got, expected in (
        ("space", opened.record.space_id, gallery.record.space_id),
        ("gallery model", opened.record.model_weights_sha256, gallery.record.model_weights_sha256),
    ):
        if got != expected:
            raise SpaceMismatchError(f"{path} is of another {what} than the gallery", got=got, expected=expected)
    found = _rows_of(ids, classes, opened.items)
    if (found < 0).any():
        missing = [name for name, row in zip(ids, found, strict=True) if row < 0]
        raise DataError(
            f"{path} lacks vectors of query pictures",
            got=f"no {missing[0]}, and {len(missing) - 1} more of {len(ids)}",
            fix="make it with hetero index from the same data",
        )
    return opened.vectors[found], None


def _some_classes(dataset: Dataset, indices: np.ndarray) -> str:
    return ", ".join(dataset.class_names[label] for label in np.unique(dataset.labels[indices])[:3]) or "none"

"""Who is searched against whom: which gallery images a query may be given, and which of them are right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hetero.data.dataset import NO_GROUP, ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.errors import RetrievalError


@dataclass(frozen=True)
class Protocol:
    """Queries and gallery of one measurement. Make it with :func:`leave_one_out` or :func:`query_gallery`.

    An image is never a candidate for itself (same id, whichever model embedded it), and neither is another
    image of its group.

    Attributes:
        query_ids: ``int64 [q]``, which images are queries: rows of the embeddings of all images.
        gallery_ids: ``int64 [n]``, likewise for the gallery; no id twice.
        query_labels, gallery_labels: ``int64 [q]`` and ``[n]``; the same label is a match.
        query_groups, gallery_groups: ``int64 [q]`` and ``[n]``; images of one group (not ``NO_GROUP``) never
            match each other. Both or neither.

    Raises:
        RetrievalError: lengths that disagree, an image twice in the gallery, no query or no gallery.
    """

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_labels: np.ndarray
    gallery_labels: np.ndarray
    query_groups: np.ndarray | None = None
    gallery_groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        for side, ids, labels, groups in (
            ("query", self.query_ids, self.query_labels, self.query_groups),
            ("gallery", self.gallery_ids, self.gallery_labels, self.gallery_groups),
        ):
            if len(ids) == 0:
                raise RetrievalError(f"the {side} is empty", fix=f"give at least one image the role {side}")
            if labels.shape != ids.shape or (groups is not None and groups.shape != ids.shape):
                raise RetrievalError(
                    f"{side} ids, labels and groups disagree in length",
                    got=f"{ids.shape}, {labels.shape}, {None if groups is None else groups.shape}",
                    expected="one label (and one group, where there are groups) an image",
                )
        if (self.query_groups is None) != (self.gallery_groups is None):
            raise RetrievalError("groups are given for one side only", expected="groups for both or neither")
        if len(np.unique(self.gallery_ids)) != len(self.gallery_ids):
            raise RetrievalError("an image stands twice in the gallery", fix="list each image once")

    def removed(self, query: int) -> np.ndarray:
        """Gallery rows that query number ``query`` must not be given: ``int64 [r]``, itself and its group."""
        own = self._by_id.rows(int(self.query_ids[query]))
        if self.query_groups is None or self.query_groups[query] == NO_GROUP:
            return own
        mates = self._by_group.rows(int(self.query_groups[query]))
        removed: np.ndarray = np.union1d(own, mates)
        return removed

    def matches(self, query: int) -> np.ndarray:
        """Gallery rows of the query's class that it may be given: ``int64 [r]``."""
        rows = self._by_label.rows(int(self.query_labels[query]))
        keep = self.gallery_ids[rows] != self.query_ids[query]
        if self.query_groups is not None and self.gallery_groups is not None:
            group = self.query_groups[query]
            if group != NO_GROUP:
                keep &= self.gallery_groups[rows] != group
        return rows[keep]

    @cached_property
    def num_matches(self) -> np.ndarray:
        """How many right answers each query has, ``int64 [q]``; queries with none cannot be scored."""
        return np.array([len(self.matches(query)) for query in range(len(self.query_ids))], np.int64)

    @cached_property
    def num_candidates(self) -> np.ndarray:
        """How many gallery images each query is searched against, ``int64 [q]``."""
        removed = [len(self.removed(query)) for query in range(len(self.query_ids))]
        return len(self.gallery_ids) - np.array(removed, np.int64)

    @cached_property
    def scorable(self) -> np.ndarray:
        """Numbers of the queries that have at least one right answer, ``int64 [s]``.

        Raises:
            RetrievalError: there is none.
        """
        found = np.flatnonzero(self.num_matches > 0)
        if len(found) == 0:
            raise RetrievalError(
                "no query has a possible match in the gallery",
                got=f"{len(self.query_ids)} queries, {len(self.gallery_ids)} gallery images",
                expected="at least one query whose class has another image (of another group) in the gallery",
                fix="give classes two images or more, and check roles and groups",
            )
        return found

    @cached_property
    def _by_id(self) -> _Rows:
        return _Rows(self.gallery_ids)

    @cached_property
    def _by_label(self) -> _Rows:
        return _Rows(self.gallery_labels)

    @cached_property
    def _by_group(self) -> _Rows:
        groups = self.gallery_groups
        return _Rows(groups if groups is not None else np.full(len(self.gallery_ids), NO_GROUP))


class _Rows:
    """Rows that hold a value, found by bisection."""

    def __init__(self, values: np.ndarray) -> None:
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def rows(self, value: int) -> np.ndarray:
        left, right = self._sorted.searchsorted(value, "left"), self._sorted.searchsorted(value, "right")
        return self._order[left:right]


def leave_one_out(labels: np.ndarray, groups: np.ndarray | None = None) -> Protocol:
    """Every image is a query and is searched against all others.

    Args:
        labels: ``int [n]``.
        groups: ``int [n]``, optional; images of one group never match each other (``NO_GROUP``: of none).

    Raises:
        RetrievalError: as :class:`Protocol`.
    """
    labels = np.asarray(labels, np.int64)
    ids = np.arange(len(labels))
    groups = None if groups is None else np.asarray(groups, np.int64)
    return Protocol(ids, ids, labels, labels, groups, groups)


def query_gallery(labels: np.ndarray, roles: np.ndarray, groups: np.ndarray | None = None) -> Protocol:
    """Images of role query are searched against images of role gallery; role both is on both sides.

    Args:
        labels: ``int [n]``.
        roles: ``int [n]`` of ``ROLE_BOTH``, ``ROLE_QUERY``, ``ROLE_GALLERY``.
        groups: as :func:`leave_one_out`.

    Raises:
        RetrievalError: as :class:`Protocol`, or an unknown role.
    """
    labels, roles = np.asarray(labels, np.int64), np.asarray(roles)
    known = (ROLE_BOTH, ROLE_QUERY, ROLE_GALLERY)
    if roles.shape != labels.shape or not np.isin(roles, known).all():
        raise RetrievalError(
            "roles do not fit the images",
            got=f"{list(roles.shape)} with values {np.unique(roles)[:5].tolist()}",
            expected=f"{list(labels.shape)} with values of {known} (both, query, gallery)",
        )
    queries, gallery = np.flatnonzero(roles != ROLE_GALLERY), np.flatnonzero(roles != ROLE_QUERY)
    groups = None if groups is None else np.asarray(groups, np.int64)
    sides = (None, None) if groups is None else (groups[queries], groups[gallery])
    return Protocol(queries, gallery, labels[queries], labels[gallery], *sides)


def for_dataset(dataset: Dataset, indices: np.ndarray) -> Protocol:
    """The protocol that a dataset's roles and groups say, over some of its images.

    Args:
        dataset: where labels, roles and groups come from; without roles it is leave-one-out.
        indices: ``int [m]`` images, in the order of their embeddings: the protocol's ids are positions in it.

    Raises:
        RetrievalError: as :class:`Protocol`.
    """
    labels = dataset.labels[indices]
    groups = None if dataset.groups is None else dataset.groups[indices]
    if dataset.roles is None:
        return leave_one_out(labels, groups)
    return query_gallery(labels, dataset.roles[indices], groups)

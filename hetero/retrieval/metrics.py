"""Retrieval metrics: R@k, mAP, mAP@R, mean reciprocal rank and CMC, each the mean over the orders of ties.

Definitions, with R right answers among the N candidates of a query, and rank 1 the most similar:

- R@k: 1 if a right answer is among the first k (the CMC curve at k).
- RR: 1 / rank of the first right answer.
- AP: mean over the R right answers of the precision at their rank.
- AP@R: (1/R) · the sum over right answers within the first R of the precision at their rank.
  Source: Musgrave et al., A metric learning reality check, ECCV 2020, section 3.2 (MAP@R).

Candidates of equal similarity have no order of their own, so each metric is its expected value over all of
them (docs/retrieval.md derives the closed forms). A constant embedding therefore scores exactly chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hetero.errors import RetrievalError
from hetero.retrieval.protocol import Protocol
from hetero.retrieval.vectors import check_vectors, on_grid

_BLOCK_BYTES = 64 * 2**20  # similarities held at a time
_COUNT_LIMIT = 40  # right answers above which sorting the row is faster than counting once for each (measured)
METRICS = ("r_at_1", "r_at_5", "r_at_10", "map", "map_at_r", "mrr")


@dataclass(frozen=True)
class Scores:
    """What each query scored.

    Attributes:
        queries: ``int64 [s]``, numbers of the queries that were scored (those with a possible match).
        skipped: how many queries have no possible match and were left out.
        r_at_1, r_at_5, r_at_10: ``float64 [s]``, chance of a right answer among the first 1, 5, 10.
        ap, map_at_r, rr: ``float64 [s]``, average precision, average precision at R, reciprocal rank.
        first: ``int64 [s, 3]``: candidates ahead of the first right answer's similarity, candidates at it,
            and right answers at it. All of R@k follows from these.
    """

    queries: np.ndarray
    skipped: int
    r_at_1: np.ndarray
    r_at_5: np.ndarray
    r_at_10: np.ndarray
    ap: np.ndarray
    map_at_r: np.ndarray
    rr: np.ndarray
    first: np.ndarray

    def per_query(self, metric: str) -> np.ndarray:
        """The values of one of :data:`METRICS` (``map`` of ``ap``, ``mrr`` of ``rr``), ``float64 [s]``."""
        values: np.ndarray = getattr(self, {"map": "ap", "mrr": "rr"}.get(metric, metric))
        return values

    @property
    def mean(self) -> dict[str, float]:
        """Mean over the scored queries of each of :data:`METRICS`."""
        return {metric: float(self.per_query(metric).mean()) for metric in METRICS}

    def cmc(self, max_rank: int) -> np.ndarray:
        """Cumulative match characteristic: mean R@1 … R@max_rank, ``float64 [max_rank]``."""
        return np.array([chances.mean() for chances in hits(self.first, max_rank)])

    def hits_at(self, ranks: Sequence[int]) -> np.ndarray:
        """Chance of a right answer among the first k for each k of ``ranks``, ``float64 [s, len(ranks)]``.

        Raises:
            RetrievalError: a rank below 1, or none.
        """
        if not ranks or min(ranks) < 1:
            raise RetrievalError("R@k needs ranks from 1", got=list(ranks), expected="at least one, such as 1")
        columns = {k: chances for k, chances in enumerate(hits(self.first, max(ranks)), 1) if k in ranks}
        return np.stack([columns[k] for k in ranks], axis=1)


def score(queries: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> Scores:
    """Score every query of the protocol by cosine similarity, block by block.

    Args:
        queries: ``[q, d]``, L2-normalised embeddings of the query images, in the protocol's order.
        gallery: ``[n, d]``, likewise of the gallery, possibly by another model of the same space.
        protocol: who may match whom.

    Raises:
        RetrievalError: vectors that do not fit the protocol or are not finite and normalised, or no query
            with a possible match.
    """
    scorable = protocol.scorable
    harmonic = np.concatenate(([0.0], np.cumsum(1.0 / np.arange(1, len(gallery) + 1))))
    first = np.empty((len(scorable), 3), np.int64)
    ap, map_at_r = np.empty(len(scorable)), np.empty(len(scorable))
    done = 0
    for numbers, similarities in similarity_blocks(queries, gallery, protocol, scorable):
        rows = slice(done, done + len(numbers))
        done += len(numbers)
        groups = _tie_groups(numbers, similarities, protocol)
        relevant = protocol.num_matches[numbers]
        ap[rows] = _average_precision(groups, harmonic, groups.size, relevant)
        within = np.clip(relevant[groups.query] - groups.ahead, 0, groups.size)
        map_at_r[rows] = _average_precision(groups, harmonic, within, relevant)
        lead = np.searchsorted(groups.query, np.arange(len(numbers)))  # groups are sorted by query, best first
        first[rows] = np.stack((groups.ahead[lead], groups.size[lead], groups.right[lead]), axis=1)
    chances = list(hits(first, 10))
    skipped = len(protocol.query_ids) - len(scorable)
    return Scores(scorable, skipped, chances[0], chances[4], chances[9], ap, map_at_r, _reciprocal_rank(first), first)


def similarity_blocks(
    queries: np.ndarray, gallery: np.ndarray, protocol: Protocol, numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``numbers[b]`` and exact similarities ``float64 [b, n]`` of those queries, -inf where none.

    The similarities are a buffer that the next step overwrites.

    Raises:
        RetrievalError: vectors that do not fit the protocol or are not finite and normalised.
    """
    gallery = check_vectors("gallery embeddings", gallery)
    queries = check_vectors("query embeddings", queries, dim=gallery.shape[1])
    for side, vectors, ids in (
        ("query", queries, protocol.query_ids),
        ("gallery", gallery, protocol.gallery_ids),
    ):
        if len(vectors) != len(ids):
            raise RetrievalError(
                f"{side} embeddings do not fit the protocol",
                got=f"{len(vectors)} embeddings",
                expected=f"{len(ids)}, one for each {side} image",
            )
    exact_gallery = on_grid(gallery).T
    size = max(1, _BLOCK_BYTES // (8 * len(gallery)))
    buffer = np.empty((min(size, len(numbers)), len(gallery)))
    for start in range(0, len(numbers), size):
        block = numbers[start : start + size]
        similarities = np.matmul(on_grid(queries[block]), exact_gallery, out=buffer[: len(block)])
        for row, number in zip(similarities, block, strict=True):
            row[protocol.removed(int(number))] = -np.inf
        yield block, similarities


@dataclass(frozen=True)
class _Groups:
    """Runs of equal similarity that hold a right answer, all ``int64 [g]``, sorted by query, best first."""

    query: np.ndarray  # which of the block's queries
    ahead: np.ndarray  # candidates of higher similarity
    size: np.ndarray  # candidates of this similarity
    right: np.ndarray  # right answers of this similarity
    right_ahead: np.ndarray  # right answers of higher similarity


def _tie_groups(numbers: np.ndarray, similarities: np.ndarray, protocol: Protocol) -> _Groups:
    parts = []
    for place, (row, number) in enumerate(zip(similarities, numbers, strict=True)):
        values, right = np.unique(row[protocol.matches(int(number))], return_counts=True)
        values, right = values[::-1], right[::-1]
        ahead, reached = _counts(row, values)
        parts.append((np.full(len(values), place), ahead, reached - ahead, right, np.cumsum(right) - right))
    return _Groups(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _counts(row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each value how many of the row are greater, and how many are greater or equal."""
    if len(values) <= _COUNT_LIMIT:
        above = [np.count_nonzero(row > value) for value in values]
        return np.array(above), np.array([np.count_nonzero(row >= value) for value in values])
    ordered = np.sort(row)
    return len(row) - ordered.searchsorted(values, "right"), len(row) - ordered.searchsorted(values, "left")


def _average_precision(groups: _Groups, harmonic: np.ndarray, within: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Expected sum over right answers of the precision at their rank, over R; ``float64 [b]``.

    Of each run of m candidates with p right, behind A candidates with P right, the first ``within`` places
    count. The place x = 1..m holds a right answer with chance p/m, and then (x − 1)(p − 1)/(m − 1) of the
    run's earlier places do on average. With c = (p − 1)/(m − 1) the precision sums to c + (P + 1 − c(A + 1))
    / (A + x) over the places.
    """
    slope = (groups.right - 1) / np.maximum(groups.size - 1, 1)
    between = harmonic[groups.ahead + within] - harmonic[groups.ahead]
    one = within == 1  # exact, where a difference of harmonic numbers would lose bits
    between[one] = 1.0 / (groups.ahead[one] + 1)
    precision = slope * within + (groups.right_ahead + 1 - slope * (groups.ahead + 1)) * between
    expected = groups.right / groups.size * precision
    sums: np.ndarray = np.bincount(groups.query, expected, minlength=len(relevant))
    average: np.ndarray = sums / relevant
    return average


def hits(first: np.ndarray, max_rank: int) -> Iterator[np.ndarray]:
    """Yield for k = 1..max_rank the chance of a right answer among the first k, ``float64 [s]``.

    Args:
        first: ``int64 [s, 3]``, as :attr:`Scores.first`.
        max_rank: the last k.

    Drawing s of m candidates of which p are right misses with chance Π_{i<s} (m − p − i)/(m − i).
    """
    ahead, size, right = first.T
    miss = np.ones(len(first))
    for drawn in range(max_rank):
        place = drawn - ahead
        inside = (place >= 0) & (place < size)
        left = size[inside] - place[inside]
        miss[inside] *= np.maximum(left - right[inside], 0) / left
        yield np.where(place >= size, 1.0, 1.0 - miss)


def _reciprocal_rank(first: np.ndarray) -> np.ndarray:
    """Expected 1 / rank of the first right answer, ``float64 [s]``.

    In a run of m candidates with p right, the first right one stands at place x with chance
    p/m · Π_{i=1}^{x−1} (m − p − i + 1)/(m − i).
    """
    distinct, inverse = np.unique(first, axis=0, return_inverse=True)
    expected = np.empty(len(distinct))
    for number, (ahead, size, right) in enumerate(distinct.tolist()):
        steps = np.arange(1, size - right + 1)
        chances = np.cumprod(np.concatenate(([right / size], (size - right - steps + 1) / (size - steps))))
        expected[number] = chances @ (1.0 / (ahead + np.arange(1, len(chances) + 1)))
    each: np.ndarray = expected[inverse.reshape(-1)]
    return each

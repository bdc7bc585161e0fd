"""Exact top-k search in blocks, on numpy alone or on torch: the oracle of every other search.

How: a float32 matrix product of a block of queries and a block of vectors; the maximum of every group of 64
scores; only groups whose maximum beats the query's current k-th best are looked at. That leaves ``k + 16``
candidates a query, whose similarities are then computed exactly (:mod:`hetero.retrieval.vectors`). If the
float32 rounding error could have hidden a better vector (many near-duplicates), that query is searched again
in exact arithmetic. So every path returns the same bits: the ``k`` most similar vectors, equal similarities
in order of their index.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hetero.errors import MissingExtraError, RetrievalError
from hetero.retrieval.vectors import check_vectors, on_grid

SLACK = 16  # candidates beyond k; more near-duplicates than this at rank k cost a second, slower search
_GROUP = 64  # scores reduced to one maximum: enough that few maxima are left, few enough to look through a hit
_RERANK_BYTES = 2**27  # of candidates' vectors in float64, at a time
_EXHAUSTIVE_ROWS = 256  # queries at a time in exact arithmetic: 256 × 8192 float64 = 16 MiB

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""``scorer(queries [b, d], vectors [w, d], out [b, w])`` writes float32 dot products."""


def search_numpy(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    query_block: int = 1024,
    vector_block: int = 8192,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar vectors of each query, best first, equal similarities by lower index.

    Args:
        queries: ``[q, d]``, L2-normalised.
        vectors: ``[n, d]``, L2-normalised.
        k: how many.
        exclude: ``int [q]`` or ``[q, e]``, gallery rows a query must not get (its own image); -1 means none.
        query_block, vector_block: rows scored at a time; about ``4 * query_block * vector_block`` bytes.

    Returns:
        Similarities ``float64 [q, k]`` and gallery rows ``int64 [q, k]``.

    Raises:
        RetrievalError: vectors that :func:`~hetero.retrieval.vectors.check_vectors` refuses, or fewer than
            ``k`` candidates.
    """
    vectors = check_vectors("gallery vectors", vectors)
    queries = check_vectors("query vectors", queries, dim=vectors.shape[1])
    return search_checked(queries, vectors, k, exclude, numpy_scores, query_block, vector_block)


def search_torch(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    query_block: int = 1024,
    vector_block: int = 8192,
) -> tuple[np.ndarray, np.ndarray]:
    """Like :func:`search_numpy`, bit for bit, on torch with as many threads as it is set to.

    Raises:
        MissingExtraError: torch is not installed.
        RetrievalError: as :func:`search_numpy`.
    """
    vectors = check_vectors("gallery vectors", vectors)
    queries = check_vectors("query vectors", queries, dim=vectors.shape[1])
    return search_checked(queries, vectors, k, exclude, torch_scorer(), query_block, vector_block)


def numpy_scores(queries: np.ndarray, vectors: np.ndarray, out: np.ndarray) -> None:
    """The float32 dot products of :data:`Scorer` on numpy."""
    np.matmul(queries, vectors.T, out=out)


def torch_scorer() -> Scorer:
    """The float32 dot products of :data:`Scorer` on torch; its tensors share memory with the arrays.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("search with torch", "torch", "train") from error

    def scores(queries: np.ndarray, vectors: np.ndarray, out: np.ndarray) -> None:
        with torch.inference_mode():
            torch.matmul(torch.from_numpy(queries), torch.from_numpy(vectors).T, out=torch.from_numpy(out))

    return scores


def search_checked(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    exclude: np.ndarray | None,
    score: Scorer,
    query_block: int = 1024,
    vector_block: int = 8192,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`search_numpy` with a given scorer, on vectors that were checked before."""
    excluded = excluded_rows(exclude, len(queries), len(vectors))
    require_candidates(k, excluded, len(vectors))
    single = vectors.astype(np.float32, copy=False)
    similarities = np.empty((len(queries), k), np.float64)
    indices = np.empty((len(queries), k), np.int64)
    keep = min(len(vectors), k + SLACK)
    for start in range(0, len(queries), query_block):
        rows = slice(start, start + query_block)
        block = queries[rows].astype(np.float32, copy=False)
        bound, candidates = _candidates(block, single, keep, excluded[rows], score, vector_block)
        similarities[rows], indices[rows] = rerank(queries[rows], vectors, k, excluded[rows], bound, candidates)
    return similarities, indices


def excluded_rows(exclude: np.ndarray | None, num_queries: int, num_vectors: int) -> np.ndarray:
    """``exclude`` as ``int64 [q, e]`` with -1 for none; refuses other shapes and rows outside the gallery."""
    if exclude is None:
        return np.full((num_queries, 1), -1, np.int64)
    excluded = np.asarray(exclude)
    if excluded.ndim == 1:
        excluded = excluded[:, None]
    if excluded.dtype.kind not in "iu" or excluded.ndim != 2 or len(excluded) != num_queries:
        raise RetrievalError(
            "exclude does not fit the queries",
            got=f"{np.asarray(exclude).dtype} {list(np.asarray(exclude).shape)}",
            expected=f"integers [{num_queries}] or [{num_queries}, e]",
        )
    if excluded.size and (excluded.min() < -1 or excluded.max() >= num_vectors):
        raise RetrievalError(
            "exclude names a row outside the gallery",
            got=f"{excluded.min()}..{excluded.max()}",
            expected=f"-1..{num_vectors - 1}",
        )
    return excluded.astype(np.int64)


def require_candidates(k: int, excluded: np.ndarray, num_vectors: int) -> None:
    """Refuse ``k`` where some query has fewer candidates.

    Raises:
        RetrievalError: ``k`` below 1 or above the number of vectors that every query may get.
    """
    ordered = np.sort(excluded, axis=1)
    distinct = (ordered[:, :1] >= 0).sum(1) + ((ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum(1)
    fewest = num_vectors - int(distinct.max(initial=0))
    if not 1 <= k <= fewest:
        raise RetrievalError(
            "the search asks for more matches than there are candidates" if k > 0 else "k is not positive",
            got=f"k = {k}",
            expected=f"1..{fewest} ({num_vectors} gallery vectors less those excluded)",
            fix="ask for fewer matches or index a larger gallery",
        )


def _candidates(
    queries: np.ndarray,
    vectors: np.ndarray,
    keep: int,
    excluded: np.ndarray,
    score: Scorer,
    vector_block: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``keep`` best vectors of each query by float32 score.

    Returns ``bound [b]``, a float32 score that no vector outside the candidates exceeds, and
    ``indices [b, keep]`` (-1 where there are fewer candidates).
    """
    num = len(queries)
    buffer = np.empty((num, _padded(min(vector_block, len(vectors)))), np.float32)
    best = _Best(num, keep)
    for start in range(0, len(vectors), vector_block):
        width = min(vector_block, len(vectors) - start)
        if _padded(width) != buffer.shape[1]:  # the last block; a buffer of its own keeps it contiguous
            buffer = np.empty((num, _padded(width)), np.float32)
        buffer[:, width:] = -np.inf
        score(queries, vectors[start : start + width], buffer[:, :width])
        rows, slots = np.nonzero((excluded >= start) & (excluded < start + width))
        buffer[rows, excluded[rows, slots] - start] = -np.inf
        best.add(buffer, start)
    best.merge()
    if keep == len(vectors):
        best.bound[:] = -np.inf  # nothing is outside
    return best.bound, best.indices


def _padded(width: int) -> int:
    return -(-width // _GROUP) * _GROUP


class _Best:
    """The ``keep`` best scores of each of ``num`` queries so far, and new ones waiting to be merged.

    Merging waits until there is about one new candidate for each kept one, which on average is whenever the
    part of the gallery that was seen has doubled: few merges, however large the gallery, and bounded memory.
    """

    def __init__(self, num: int, keep: int) -> None:
        self.bound = np.full(num, -np.inf, np.float32)
        self.indices = np.full((num, keep), -1, np.int64)
        self._scores = np.full((num, keep), -np.inf, np.float32)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._num_waiting = 0

    def add(self, scores: np.ndarray, start: int) -> None:
        """Take in scores ``[num, 64 × groups]`` of the vectors from row ``start`` on; groups are strided."""
        num, keep = self.indices.shape
        grouped = scores.reshape(num, _GROUP, -1)
        groups = grouped.shape[2]
        maxima, least = grouped.max(axis=1), self.bound
        hits = maxima > least[:, None]
        if np.count_nonzero(hits) * 2 > hits.size and groups >= keep:  # the first block, or one of better vectors
            # each of the `keep` best groups holds a vector that is at least as good as the last of their maxima
            last = np.partition(maxima, groups - keep, axis=1)[:, groups - keep]
            least = np.maximum(least, np.nextafter(last, np.float32(-np.inf)))
            hits = maxima > least[:, None]
        if np.count_nonzero(hits) * 2 > hits.size:  # a small gallery, or one of equal vectors
            columns = np.argpartition(scores, max(scores.shape[1] - keep, 0), axis=1)[:, -keep:]
            values = np.take_along_axis(scores, columns, axis=1)
            rows, slots = np.nonzero(values > self.bound[:, None])
            self._wait(rows, start + columns[rows, slots], values[rows, slots])
        else:
            rows, group = np.nonzero(hits)
            values = grouped[rows, :, group]
            hit, slots = np.nonzero(values > least[rows][:, None])
            self._wait(rows[hit], start + slots * groups + group[hit], values[hit, slots])
        if self._num_waiting >= num * keep:
            self.merge()

    def _wait(self, rows: np.ndarray, indices: np.ndarray, scores: np.ndarray) -> None:
        self._waiting.append((rows, indices, scores))
        self._num_waiting += len(rows)

    def merge(self) -> None:
        """Merge what waits into the best and raise the bounds."""
        num, keep = self.indices.shape
        rows, indices, scores = (np.concatenate(parts) for parts in zip(*self._waiting, self._flat(), strict=True))
        order = np.lexsort((-scores, rows))
        rows, indices, scores = rows[order], indices[order], scores[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(num))[rows]
        kept = place < keep
        rows, place = rows[kept], place[kept]
        self.indices[rows, place], self._scores[rows, place] = indices[kept], scores[kept]
        self.bound = self._scores[:, -1].copy()
        self._waiting, self._num_waiting = [], 0

    def _flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, slots = np.nonzero(self.indices >= 0)
        return rows, self.indices[rows, slots], self._scores[rows, slots]


def rerank(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    excluded: np.ndarray,
    bound: np.ndarray,
    candidates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best by exact similarity among candidates that some float32 search found.

    Args:
        queries: ``[b, d]``; vectors: ``[n, d]``; excluded: ``[b, e]``.
        bound: ``[b]``: no vector outside the candidates has a float32 score above it (-inf: none is outside).
        candidates: ``[b, c]`` gallery rows, -1 for none, no excluded ones.

    Returns:
        Similarities ``float64 [b, k]`` and rows ``int64 [b, k]``. A query whose bound does not rule out a
        better vector outside is searched again over the whole gallery.
    """
    at_once = max(1, _RERANK_BYTES // (8 * candidates.shape[1] * queries.shape[1]))
    if len(queries) > at_once:
        cuts = range(at_once, len(queries), at_once)
        parts = zip(*(np.split(one, cuts) for one in (queries, excluded, bound, candidates)), strict=True)
        done = [rerank(q, vectors, k, e, b, c) for q, e, b, c in parts]
        return np.concatenate([one for one, _ in done]), np.concatenate([one for _, one in done])
    exact_queries = on_grid(queries)
    absent = candidates < 0
    found = on_grid(vectors[np.where(absent, 0, candidates)])
    exact = np.matmul(found, exact_queries[:, :, None])[:, :, 0]
    exact[absent] = -np.inf
    order = np.lexsort((candidates, -exact))[:, :k]
    similarities = np.take_along_axis(exact, order, axis=1)
    indices = np.take_along_axis(candidates, order, axis=1)
    # float32: at most d roundings of relative size 2⁻²⁴ in a sum of at most 1; the components' rounding to the
    # grid adds 2⁻²⁶ √d; 8 more for the rounding of float64 input and for norms a little above 1
    error = (queries.shape[1] + queries.shape[1] ** 0.5 + 8) * 2.0**-24
    doubtful = np.flatnonzero(~(similarities[:, -1] > bound.astype(np.float64) + error))
    for start in range(0, len(doubtful), _EXHAUSTIVE_ROWS):
        rows = doubtful[start : start + _EXHAUSTIVE_ROWS]
        similarities[rows], indices[rows] = _exhaustive(exact_queries[rows], vectors, k, excluded[rows])
    return similarities, indices


def _exhaustive(
    exact_queries: np.ndarray, vectors: np.ndarray, k: int, excluded: np.ndarray, vector_block: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    best = np.full((len(exact_queries), 0), -np.inf)
    indices = np.empty((len(exact_queries), 0), np.int64)
    for start in range(0, len(vectors), vector_block):
        block = on_grid(vectors[start : start + vector_block])
        scores = exact_queries @ block.T
        rows, slots = np.nonzero((excluded >= start) & (excluded < start + len(block)))
        scores[rows, excluded[rows, slots] - start] = -np.inf
        own = np.broadcast_to(np.arange(start, start + len(block)), scores.shape)
        scores, own = np.concatenate((best, scores), axis=1), np.concatenate((indices, own), axis=1)
        # stable: what stands first, which is the lower row, stays first among equals
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best, indices = np.take_along_axis(scores, order, axis=1), np.take_along_axis(own, order, axis=1)
    return best, indices

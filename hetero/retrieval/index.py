"""Searching a gallery: the space is checked every time, and every backend returns what the oracle returns."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hetero.errors import ConfigError, MissingExtraError, nearest
from hetero.retrieval.exact import (
    SLACK,
    excluded_rows,
    numpy_scores,
    require_candidates,
    rerank,
    search_checked,
    torch_scorer,
)
from hetero.retrieval.gallery import Gallery, open_gallery
from hetero.retrieval.vectors import check_vectors
from hetero.space import require_same_space

Backend = Literal["auto", "faiss", "torch", "numpy"]
_PACKAGES = {"faiss": ("faiss", "faiss-cpu", "faiss"), "torch": ("torch", "torch", "train")}
_BACKENDS = ("auto", "faiss", "torch", "numpy")
_FAISS_ROWS = 4096  # queries re-ranked at a time: 4096 × (k + 16) × d float64, 110 MB for k = 10 and d = 128


class Index:
    """Exact top-k search over vectors of one space.

    Args:
        vectors: ``[n, d]``, L2-normalised.
        space_id: the space they are in.
        name: what to call them in messages.
        backend: ``auto`` takes faiss where it is installed, else torch, else numpy. All return the same bits.

    Raises:
        RetrievalError: vectors that cannot be searched.
        ConfigError: an unknown backend.
        MissingExtraError: a backend asked for by name is not installed.
    """

    def __init__(
        self, vectors: np.ndarray, *, space_id: str, name: str = "the gallery", backend: Backend = "auto"
    ) -> None:
        self.vectors = check_vectors(f"vectors of {name}", vectors)
        self.space_id, self.name = space_id, name
        self.backend = _choose(backend)
        self._faiss = _faiss_index(self.vectors) if self.backend == "faiss" else None
        self._score = torch_scorer() if self.backend == "torch" else numpy_scores

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        space_id: str,
        name: str = "the queries",
        exclude: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar gallery rows of each query, best first, equal similarities by lower row.

        Args:
            queries: ``[q, d]``, L2-normalised.
            k: how many.
            space_id: the space the queries are in.
            name: what to call them in messages.
            exclude: ``int [q]`` or ``[q, e]``, rows a query must not get (its own image); -1 for none.

        Returns:
            Similarities ``float64 [q, k]`` and rows ``int64 [q, k]``.

        Raises:
            SpaceMismatchError: the queries are in another space, even at equal dimension; names both ids.
            RetrievalError: queries that cannot be searched with, or fewer than ``k`` candidates.
        """
        require_same_space(space_id, self.space_id, query=name, gallery=self.name)
        queries = check_vectors(name, queries, dim=self.vectors.shape[1])
        if self._faiss is None:
            return search_checked(queries, self.vectors, k, exclude, self._score)
        return self._search_faiss(queries, k, excluded_rows(exclude, len(queries), len(self)))

    def _search_faiss(self, queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        require_candidates(k, excluded, len(self))
        keep = min(len(self), k + SLACK + excluded.shape[1])
        similarities, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), _FAISS_ROWS):
            part = slice(start, start + _FAISS_ROWS)
            scores, found = self._faiss.search(queries[part].astype(np.float32, copy=False), keep)  # type: ignore[union-attr]
            bound = scores[:, -1] if keep < len(self) else np.full(len(scores), -np.inf, np.float32)
            found[(found[:, :, None] == excluded[part][:, None, :]).any(2)] = -1
            similarities[part], rows[part] = rerank(queries[part], self.vectors, k, excluded[part], bound, found)
        return similarities, rows


def open_index(gallery: Gallery | Path | str, *, backend: Backend = "auto") -> Index:
    """The index over a gallery, or over the gallery directory at a path.

    Raises:
        BundleError: the directory is not an intact gallery.
        ConfigError, MissingExtraError: as :class:`Index`.
    """
    if not isinstance(gallery, Gallery):
        gallery = open_gallery(gallery)
    name = f"gallery {gallery.path}"
    return Index(gallery.vectors, space_id=gallery.record.space_id, name=name, backend=backend)


def _choose(backend: str) -> str:
    if backend not in _BACKENDS:
        raise ConfigError("unknown search backend", got=repr(backend), expected=nearest(backend, _BACKENDS))
    if backend == "auto":
        return next((name for name in ("faiss", "torch") if find_spec(name) is not None), "numpy")
    if backend in _PACKAGES and find_spec(_PACKAGES[backend][0]) is None:
        _, package, extra = _PACKAGES[backend]
        raise MissingExtraError(f"the search backend {backend!r}", package, extra)
    return backend


def _faiss_index(vectors: np.ndarray) -> Any:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.astype(np.float32, copy=False))
    return index

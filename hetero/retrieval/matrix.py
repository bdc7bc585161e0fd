"""Every model of a space against every other: who finds what in whose gallery, and where that is worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hetero.errors import RetrievalError
from hetero.retrieval.metrics import Scores, score
from hetero.retrieval.protocol import Protocol

Pair = tuple[str, str]
"""Names of the query model and the gallery model of a cell."""


@dataclass(frozen=True)
class SpaceMatrix:
    """Scores of each (query model, gallery model) pair.

    Attributes:
        models: names, the gallery model first.
        cells: every pair of them, each model with itself among them.
    """

    models: tuple[str, ...]
    cells: Mapping[Pair, Scores]

    def minimum(self, metric: str = "r_at_1") -> Pair:
        """The pair with the lowest mean of a metric, the first in order of the models where several are.

        A fleet is as good as its worst pair: phones search the cloud's gallery and each other's.
        """
        ordered = [(query, gallery) for query in self.models for gallery in self.models]
        return min(ordered, key=lambda pair: float(self.cells[pair].per_query(metric).mean()))


def space_matrix(
    embeddings: Mapping[str, np.ndarray], protocol: Protocol, known: Mapping[Pair, Scores] | None = None
) -> SpaceMatrix:
    """Score all pairs of models.

    Args:
        embeddings: by name, the gallery model first: ``[m, d]``, L2-normalised, rows of the same images.
        protocol: whose ids are rows of each.
        known: cells that were scored before, with the same protocol.

    Raises:
        RetrievalError: no model, or embeddings that do not fit the protocol or each other.
    """
    if not embeddings:
        raise RetrievalError("a matrix needs models", got="none", expected="at least one model's embeddings")
    cells = {
        (query, gallery): (known or {}).get((query, gallery))
        or score(embeddings[query][protocol.query_ids], embeddings[gallery][protocol.gallery_ids], protocol)
        for query in embeddings
        for gallery in embeddings
    }
    return SpaceMatrix(tuple(embeddings), cells)

"""TAR@FAR of every (query model, gallery model) pair over one list of template pairs.

On the diagonal a model is searched with itself; off it is the heterogeneous search. Each cell has its own thresholds:
a threshold carried over from another cell would answer at another false accept rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero.data.templates import TemplatePairs
from hetero.errors import RetrievalError
from hetero.retrieval.pairs import FARS, Roc, require_enough, verify


@dataclass(frozen=True)
class VerificationMatrix:
    """One ROC for each pair of models.

    Attributes:
        models: names, in the order given.
        cells: (query model, gallery model) to its ROC.
    """

    models: tuple[str, ...]
    cells: Mapping[tuple[str, str], Roc]

    def tar(self, query_model: str, gallery_model: str, far: float) -> float:
        """The true accept rate of one cell at one of the stated rates.

        Raises:
            RetrievalError: a model or rate that was not measured.
        """
        roc = self.cells.get((query_model, gallery_model))
        found = [point for point in roc.points if point.far == far] if roc is not None else []
        if not found:
            rates = sorted({point.far for cell in self.cells.values() for point in cell.points})
            raise RetrievalError(
                "this cell of the verification matrix was not measured",
                got=f"query model {query_model!r}, gallery model {gallery_model!r}, FAR {far:g}",
                expected=f"models {', '.join(self.models)}; rates {', '.join(f'{rate:g}' for rate in rates)}",
            )
        return found[0].true_accept_rate.value

    def to_json(self) -> dict[str, Any]:
        """Plain dict: ``models``; ``cells``, a list of ``query_model``, ``gallery_model`` and :meth:`Roc.to_json`."""
        return {
            "models": list(self.models),
            "cells": [
                {"query_model": query, "gallery_model": gallery, **roc.to_json()}
                for (query, gallery), roc in self.cells.items()
            ],
        }


def verification_matrix(
    embeddings: Mapping[str, np.ndarray],
    pairs: TemplatePairs,
    fars: tuple[float, ...] = FARS,
    *,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> VerificationMatrix:
    """Measure all cells and keep each one's whole curve; arguments and errors as :func:`verification_cells`."""
    cells = dict(verification_cells(embeddings, pairs, fars, clusters=clusters, seed=seed))
    return VerificationMatrix(tuple(embeddings), cells)


def verification_cells(
    embeddings: Mapping[str, np.ndarray],
    pairs: TemplatePairs,
    fars: tuple[float, ...] = FARS,
    *,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> Iterator[tuple[tuple[str, str], Roc]]:
    """Yield (query model, gallery model) and its ROC, cell by cell: a curve is 32 MiB, and a fleet has many cells.

    Every model embedded the same templates.

    Args:
        embeddings: by model name, ``[t, d]``, L2-normalised, one row a template, all of one space.
        pairs: ``probe`` and ``enroll`` are rows of these.
        fars, clusters, seed: as :func:`hetero.retrieval.pairs.verify`; all cells see the same resampled units.

    Raises:
        RetrievalError: no model, models with other numbers of templates or dimensions, or as ``verify``.
    """
    if not embeddings:
        raise RetrievalError("a verification matrix needs at least one model", got="no embeddings")
    shapes = {name: np.shape(vectors) for name, vectors in embeddings.items()}
    if len(set(shapes.values())) > 1:
        raise RetrievalError(
            "the models did not embed the same templates into one space",
            got=", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()),
            expected="one shape [templates, dimension]",
        )
    require_enough(pairs, fars)
    for query in embeddings:
        for gallery in embeddings:
            roc = verify(embeddings[query], embeddings[gallery], pairs, fars, clusters=clusters, seed=seed)
            yield (query, gallery), roc

"""The four cells and the compatibility rule: is the query model in the gallery model's space?

With φ_g the gallery model and φ_q the query model, (query side, gallery side): *paragon* (φ_g, φ_g),
*heterogeneous* (φ_q, φ_g), *homogeneous* (φ_q, φ_q), *reverse* (φ_g, φ_q). The compatibility rule
M(φ_q, φ_g) > M(φ_q, φ_q) is satisfied where the 95 % interval of the paired difference lies above 0.
Source: Shen et al., Towards backward-compatible representation learning, CVPR 2020, equation 1; Duggal et
al., Compatibility-aware heterogeneous visual search, CVPR 2021, section 3 (for models of different size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import RESAMPLES, Interval, intervals, paired_difference
from hetero.retrieval.metrics import METRICS, Scores, score
from hetero.retrieval.protocol import Protocol

CELLS = ("paragon", "heterogeneous", "homogeneous", "reverse")
RULE_METRICS = ("r_at_1", "map_at_r")


@dataclass(frozen=True)
class Rule:
    """The compatibility rule for one metric: heterogeneous minus homogeneous, paired."""

    difference: Interval

    @property
    def satisfied(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.difference.low > 0.0

    def to_json(self) -> dict[str, Any]:
        """``{"satisfied", "difference", "low", "high"}``."""
        value, low, high = self.difference
        return {"satisfied": self.satisfied, "difference": value, "low": low, "high": high}


@dataclass(frozen=True)
class Cost:
    """What one embedding costs each model (MACs or parameters)."""

    gallery: int
    query: int

    @property
    def ratio(self) -> float:
        """How many times less the query model needs: gallery / query."""
        return self.gallery / self.query

    def to_json(self) -> dict[str, Any]:
        """``{"gallery", "query", "ratio"}``."""
        return {"gallery": self.gallery, "query": self.query, "ratio": self.ratio}


@dataclass(frozen=True)
class CompatReport:
    """Four cells, the rule's verdict and the costs.

    Attributes:
        cells: of each of :data:`CELLS` the interval of each of ``METRICS``.
        rule: of each of :data:`RULE_METRICS` the verdict.
        chance: expected R@1 of a random ranking.
        queries, skipped, gallery: how many queries were scored, how many left out, and gallery images.
        scores: per-query values of each cell.
        macs, params: costs, where they were given.
    """

    cells: Mapping[str, Mapping[str, Interval]]
    rule: Mapping[str, Rule]
    chance: float
    queries: int
    skipped: int
    gallery: int
    seed: int
    resamples: int
    scores: Mapping[str, Scores]
    macs: Cost | None = None
    params: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dict with the keys of docs/report-spec.md; ``macs`` and ``params`` only where given."""
        report: dict[str, Any] = {
            "cells": {
                cell: {metric: measured.to_json() for metric, measured in metrics.items()}
                for cell, metrics in self.cells.items()
            },
            "rule": {metric: rule.to_json() for metric, rule in self.rule.items()},
            "chance": {"r_at_1": self.chance},
            "queries": self.queries,
            "queries_without_match": self.skipped,
            "gallery": self.gallery,
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "confidence": 0.95},
        }
        for key, cost in (("macs", self.macs), ("params", self.params)):
            if cost is not None:
                report[key] = cost.to_json()
        return report


def compare(
    query_model: np.ndarray,
    gallery_model: np.ndarray,
    protocol: Protocol,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    macs: tuple[int, int] | None = None,
    params: tuple[int, int] | None = None,
    paragon: Scores | None = None,
) -> CompatReport:
    """Measure the four cells from the embeddings of the same images by both models.

    Args:
        query_model: ``[m, d]``, φ_q of every image, L2-normalised.
        gallery_model: ``[m, d]``, φ_g of every image, L2-normalised.
        protocol: whose ids are rows of both.
        seed, resamples: of the bootstrap; all cells see the same resampled queries.
        macs, params: (gallery model, query model).
        paragon: its scores, where they are known from another student.

    Raises:
        RetrievalError: the embeddings do not fit each other or the protocol, or cannot be scored.
    """
    largest = int(max(protocol.query_ids.max(), protocol.gallery_ids.max()))
    if len(query_model) != len(gallery_model) or largest >= len(query_model):
        raise RetrievalError(
            "the two models did not embed the same images",
            got=f"{len(query_model)} embeddings by φ_q (query model), {len(gallery_model)} by φ_g",
            expected=f"the same number, at least {largest + 1}",
            fix="embed every image of the protocol with both models",
        )
    sides = {
        "paragon": (gallery_model, gallery_model),
        "heterogeneous": (query_model, gallery_model),
        "homogeneous": (query_model, query_model),
        "reverse": (gallery_model, query_model),
    }
    known = {} if paragon is None else {"paragon": paragon}
    scores = {
        cell: known.get(cell) or score(queries[protocol.query_ids], gallery[protocol.gallery_ids], protocol)
        for cell, (queries, gallery) in sides.items()
    }
    values = np.stack([scores[cell].per_query(metric) for cell in CELLS for metric in METRICS], axis=1)
    measured = iter(intervals(values, seed=seed, resamples=resamples))
    cells = {cell: {metric: next(measured) for metric in METRICS} for cell in CELLS}
    rule = {
        metric: Rule(
            paired_difference(
                scores["heterogeneous"].per_query(metric),
                scores["homogeneous"].per_query(metric),
                seed,
                resamples=resamples,
            )
        )
        for metric in RULE_METRICS
    }
    any_scores = scores["paragon"]
    return CompatReport(
        cells=cells,
        rule=rule,
        chance=chance_level(protocol),
        queries=len(any_scores.queries),
        skipped=any_scores.skipped,
        gallery=len(protocol.gallery_ids),
        seed=seed,
        resamples=resamples,
        scores=scores,
        macs=None if macs is None else Cost(*macs),
        params=None if params is None else Cost(*params),
    )


def chance_level(protocol: Protocol) -> float:
    """Expected R@1 of a random ranking: mean over the scored queries of right answers / candidates.

    Raises:
        RetrievalError: no query has a possible match.
    """
    scored = protocol.scorable
    return float((protocol.num_matches[scored] / protocol.num_candidates[scored]).mean())


def pixel_baseline(pixels: np.ndarray) -> np.ndarray:
    """Raw pixels as an embedding: each picture flattened, its mean subtracted, L2-normalised.

    Args:
        pixels: ``uint8 [n, h, w]`` or ``[n, h, w, c]``.

    Returns:
        ``float32 [n, h·w·c]``. A picture of one colour, which has no direction, becomes the vector of equal
        components: it is orthogonal to every other picture, so it resembles only its like.

    Raises:
        RetrievalError: not 8-bit pixels, or no picture.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise RetrievalError(
            "the pixel baseline needs pictures",
            got=f"{pixels.dtype} {list(pixels.shape)}",
            expected="uint8 [n, h, w] or [n, h, w, c]",
        )
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    one_colour = np.ptp(pixels.reshape(len(pixels), -1), axis=1) == 0
    flat[one_colour] = 1.0
    norms = np.sqrt(np.einsum("nd,nd->n", flat, flat, dtype=np.float64))
    unit: np.ndarray = (flat / norms[:, None]).astype(np.float32)
    return unit

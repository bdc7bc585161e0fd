"""Percentile bootstrap intervals over queries: how far a number would move with other queries.

Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13 (percentile intervals).
The resamples depend on the seed and the number of queries (or clusters) alone, so two calls with the same
seed see the same resampled queries: differences between cells are paired.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetero.errors import RetrievalError

RESAMPLES = 2000  # the 2.5 % tail then holds 50 resamples: the ends of an interval move by a few % of its width
CONFIDENCE = 0.95
_CHUNK = 4_000_000  # drawn indices held at a time


class Interval(NamedTuple):
    """A measured value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """``{"value": …, "low": …, "high": …}``."""
        return self._asdict()


def resampled_ratios(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Ratios of sums over units drawn with replacement, ``float64 [resamples, m]``.

    Args:
        numerators, denominators: ``[u, m]``, one row a unit (query or cluster).
        seed: of the draw; the same draw for all m columns.
        resamples: how many.

    Returns:
        NaN where a resample has denominator 0.
    """
    units = len(numerators)
    generator = np.random.default_rng(seed)
    both = np.concatenate((numerators, denominators), axis=1).astype(np.float64)
    sums = np.empty((resamples, both.shape[1]))
    step = max(1, _CHUNK // units)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, units, size=(rows, units), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * units
        counts = np.bincount(drawn.reshape(-1), minlength=rows * units).reshape(rows, units)
        sums[start : start + rows] = counts.astype(np.float64) @ both
    top, bottom = np.split(sums, [numerators.shape[1]], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return top / bottom


def intervals(
    values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, clusters: np.ndarray | None = None
) -> list[Interval]:
    """Mean and interval of each column, all columns over the same resampled queries.

    Args:
        values: ``[q, m]``, finite; a row a query.
        seed: of the resampling.
        resamples: how many.
        clusters: ``int [q]``, optional: draw whole clusters (such as classes) instead of single queries.

    Raises:
        RetrievalError: no queries, or a value that is not finite.
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0 or not np.isfinite(values).all():
        raise RetrievalError(
            "an interval needs finite values of at least one query",
            got=f"{len(values)} queries, {int((~np.isfinite(values)).sum())} values not finite",
        )
    sums, counts = values, np.ones_like(values)
    if clusters is not None:
        sums, counts = cluster_sums(values, clusters), cluster_sums(counts, clusters)
    means = np.ascontiguousarray(values.T).mean(axis=1)  # the same bits whatever stands in the other columns
    drawn = resampled_ratios(sums, counts, seed=seed, resamples=resamples)
    return [_percentiles(value, column) for value, column in zip(means, drawn.T, strict=True)]


def interval(
    values: np.ndarray, seed: int = 0, *, resamples: int = RESAMPLES, clusters: np.ndarray | None = None
) -> Interval:
    """Mean of ``values [q]`` with its 95 % interval; arguments and errors as :func:`intervals`."""
    return intervals(np.asarray(values)[:, None], seed=seed, resamples=resamples, clusters=clusters)[0]


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    clusters: np.ndarray | None = None,
) -> Interval:
    """Mean of ``first − second`` (``[q]`` each, of the same queries) with its interval.

    Raises:
        RetrievalError: not the same number of queries, or as :func:`intervals`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise RetrievalError(
            "a paired difference needs the same queries on both sides",
            got=f"{list(first.shape)} and {list(second.shape)} values",
        )
    return interval(first - second, seed, resamples=resamples, clusters=clusters)


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, seed: int = 0, *, resamples: int = RESAMPLES
) -> Interval:
    """Σ numerators / Σ denominators with its interval, or the mean of several such ratios over the same units.

    Args:
        numerators, denominators: ``[u]``, one a unit (query or cluster), or ``[u, m]`` for the mean of m ratios.
        seed, resamples: of the resampling.

    Raises:
        RetrievalError: denominators sum to 0.
    """
    tops, bottoms = (np.asarray(values, np.float64) for values in (numerators, denominators))
    tops, bottoms = (values.reshape(len(values), -1) for values in (tops, bottoms))
    totals = bottoms.sum(axis=0)
    if (totals <= 0).any():
        raise RetrievalError(
            "a rate over no pairs has no value", got=f"{totals.min():g} pairs", expected="at least one"
        )
    drawn = resampled_ratios(tops, bottoms, seed=seed, resamples=resamples)
    return _percentiles(float((tops.sum(axis=0) / totals).mean()), drawn.mean(axis=1))


def cluster_sums(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums over the rows of each cluster, ``float64 [c, m]``, clusters in ascending order.

    Args:
        values: ``[q, m]``.
        clusters: ``int [q]``.
    """
    _, inverse = np.unique(clusters, return_inverse=True)
    sums = np.zeros((int(inverse.max()) + 1, values.shape[1]))
    np.add.at(sums, inverse, values)
    return sums


def _percentiles(value: float, drawn: np.ndarray) -> Interval:
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.nanpercentile(drawn, [tail, 100.0 - tail])
    return Interval(float(value), float(low), float(high))

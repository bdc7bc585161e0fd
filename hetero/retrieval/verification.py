"""Similarity thresholds: "is this the same product?" answered at a stated rate of false accepts.

A (query, gallery) pair of different classes is an *impostor* pair, one of the same class a *genuine* pair.
The threshold for a false accept rate (FAR) is the least multiple of 2⁻²⁰ at which at most that share of the
impostor pairs of the training classes is accepted (similarity ≥ threshold). What it then does on classes
never trained on is measured: the true accept rate (share of genuine pairs accepted) and the false accept rate
there.

All pairs are counted, none is sampled or kept (hetero/retrieval/histogram.py). For a list of pairs instead of a
protocol there is hetero/retrieval/pairs.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import Interval, ratio_interval
from hetero.retrieval.histogram import PairCounts, histogram, require_pairs, threshold_at
from hetero.retrieval.metrics import similarity_blocks
from hetero.retrieval.protocol import Protocol

THRESHOLD_SCHEMA = 1


class Rate(BaseModel):
    """A measured share with its 95 % bootstrap interval over queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Threshold(BaseModel):
    """One calibrated threshold, as written to checkpoints and bundles.

    Attributes:
        far: the stated false accept rate per (query, gallery) impostor pair.
        similarity: accept a pair whose cosine similarity is at least this.
        impostor_pairs: how many impostor pairs of the calibration classes it was set on.
        calibration_far: share of those it accepts; at most ``far``.
        true_accept_rate: share of genuine pairs of the test classes it accepts.
        false_accept_rate: share of impostor pairs of the test classes it accepts.
        genuine_pairs, test_impostor_pairs: how many pairs those two shares are of.
        calibration_queries: how many query images the impostor pairs come from.
        seed: of the choice of queries, where not all were used, and of the intervals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold_schema: int = Field(default=THRESHOLD_SCHEMA, ge=THRESHOLD_SCHEMA, le=THRESHOLD_SCHEMA)
    far: float = Field(gt=0, lt=1)
    similarity: float = Field(ge=-1.01, le=1.01)
    impostor_pairs: int = Field(gt=0)
    calibration_far: float = Field(ge=0, le=1)
    calibration_queries: int = Field(gt=0)
    true_accept_rate: Rate
    false_accept_rate: Rate
    genuine_pairs: int = Field(gt=0)
    test_impostor_pairs: int = Field(gt=0)
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain dict for a JSON file; :meth:`from_json` reads it back equal."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: object) -> Threshold:
        """The threshold that :meth:`to_json` wrote.

        Raises:
            RetrievalError: unknown or missing keys, values out of range, another schema.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "threshold"
            raise RetrievalError(
                f"a stored threshold is not valid at {where}",
                got=repr(first.get("input")),
                expected=first["msg"],
                fix="calibrate the thresholds again with this version",
            ) from error


def count_pairs(
    queries: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    *,
    max_queries: int | None = None,
    seed: int = 0,
) -> PairCounts:
    """Histograms of the similarities of all impostor and all genuine pairs of a protocol.

    Args:
        queries, gallery: ``[q, d]`` and ``[n, d]``, L2-normalised, in the protocol's order.
        protocol: an image and itself, or another of its group, are no pair.
        max_queries: take only so many queries, drawn with ``seed``; None takes all.
        seed: of that draw.

    Raises:
        RetrievalError: vectors that do not fit the protocol or are not finite and normalised.
    """
    numbers = _drawn(protocol, max_queries, seed)
    total, genuine = histogram(np.empty(0)), histogram(np.empty(0))
    for block, similarities in similarity_blocks(queries, gallery, protocol, numbers):
        total += histogram(similarities)
        rows = [row[protocol.matches(int(number))] for row, number in zip(similarities, block, strict=True)]
        genuine += histogram(np.concatenate(rows))
    return PairCounts(total - genuine, genuine, len(numbers))


def _drawn(protocol: Protocol, max_queries: int | None, seed: int) -> np.ndarray:
    numbers = np.arange(len(protocol.query_ids))
    if max_queries is None or max_queries >= len(numbers):
        return numbers
    return np.sort(np.random.default_rng(seed).choice(numbers, max_queries, replace=False))


def require_enough_pairs(
    protocol: Protocol, fars: tuple[float, ...], *, max_queries: int | None = None, seed: int = 0
) -> None:
    """Refuse, before anything is embedded, a FAR that the protocol has too few impostor pairs for.

    Args:
        max_queries, seed: as :func:`calibrate` will be given.

    Raises:
        RetrievalError: as :func:`threshold_at`.
    """
    numbers = _drawn(protocol, max_queries, seed)
    pairs = int((protocol.num_candidates - protocol.num_matches)[numbers].sum())
    for far in fars:
        require_pairs(pairs, far)


def calibrate(
    training: tuple[np.ndarray, np.ndarray, Protocol],
    test: tuple[np.ndarray, np.ndarray, Protocol],
    fars: tuple[float, ...] = (1e-2, 1e-3, 1e-4),
    *,
    max_queries: int | None = None,
    seed: int = 0,
) -> tuple[Threshold, ...]:
    """Set a threshold for each FAR on training classes and measure it on test classes.

    Args:
        training: query embeddings ``[q, d]``, gallery embeddings ``[n, d]`` and their protocol, classes
            trained on.
        test: the same of classes not trained on.
        fars: stated false accept rates.
        max_queries: use at most so many training queries, drawn with ``seed``.
        seed: of that draw and of the intervals.

    Raises:
        RetrievalError: too few impostor pairs (fewer than 10/FAR), a FAR that is no rate, no genuine pair in
            the test classes, or unusable vectors.
    """
    counts = count_pairs(*training, max_queries=max_queries, seed=seed)
    impostors = int(counts.impostor.sum())
    similarities = tuple(threshold_at(counts, far) for far in fars)
    rates = accept_rates(*test, similarities, seed=seed)
    thresholds = []
    for far, similarity, (genuine, impostor, num_genuine, num_impostor) in zip(fars, similarities, rates, strict=True):
        accepted = int(counts.impostor[counts.lower_edges >= similarity].sum())
        threshold = Threshold(
            far=far,
            similarity=similarity,
            impostor_pairs=impostors,
            calibration_far=accepted / impostors,
            calibration_queries=counts.queries,
            true_accept_rate=Rate(**genuine.to_json()),
            false_accept_rate=Rate(**impostor.to_json()),
            genuine_pairs=num_genuine,
            test_impostor_pairs=num_impostor,
            seed=seed,
        )
        thresholds.append(threshold)
    return tuple(thresholds)


def accept_rates(
    queries: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    similarities: tuple[float, ...],
    *,
    seed: int = 0,
) -> list[tuple[Interval, Interval, int, int]]:
    """For each threshold: true and false accept rate, and how many genuine and impostor pairs they are of.

    The intervals are bootstrapped over queries, whose pairs stay together.

    Raises:
        RetrievalError: no genuine or no impostor pair, or unusable vectors.
    """
    numbers = np.arange(len(protocol.query_ids))
    genuine = np.empty((len(similarities), len(numbers)))
    accepted = np.empty_like(genuine)
    for block, values in similarity_blocks(queries, gallery, protocol, numbers):
        for number, row in zip(block, values, strict=True):
            right = row[protocol.matches(int(number))]
            for place, similarity in enumerate(similarities):
                accepted[place, number] = np.count_nonzero(row >= similarity)
                genuine[place, number] = np.count_nonzero(right >= similarity)
    num_genuine = protocol.num_matches
    num_impostor = protocol.num_candidates - num_genuine
    return [
        (
            ratio_interval(genuine[place], num_genuine, seed),
            ratio_interval(accepted[place] - genuine[place], num_impostor, seed),
            int(num_genuine.sum()),
            int(num_impostor.sum()),
        )
        for place in range(len(similarities))
    ]

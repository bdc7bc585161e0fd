"""Counting scores in bins 2⁻²⁰ wide, and the threshold that keeps a stated rate: for pairs and for probes alike.

A threshold is the lower edge of a bin, and what is at or above it is accepted. The bins are finer than the
difference between two runtimes and their edges exact in float32, so that a phone compares with the same number,
and the count at a threshold is exact without keeping or sorting the scores. Equal scores share a bin: they are
accepted together or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np

from hetero.errors import RetrievalError

STEPS = 2**20  # bins per unit of similarity
_OFFSET = STEPS + STEPS // 256  # bin of similarity 0: norms may exceed 1 a little, so similarities may reach ±1.002
_BINS = 2 * _OFFSET + 1
TRIALS_PER_RATE = 10  # trials that must exist for each 1/rate: ten accepts expected, so the rate is known to ±60 %
_CHUNK = 2**22  # scores put into bins at a time


@dataclass(frozen=True)
class PairCounts:
    """How many pairs have which similarity.

    Attributes:
        impostor, genuine: ``int64 [bins]``; :attr:`lower_edges` says which similarities a bin holds.
        queries: how many queries the pairs come from.
    """

    impostor: np.ndarray
    genuine: np.ndarray
    queries: int

    @property
    def lower_edges(self) -> np.ndarray:
        """``float64 [bins]``: bin i holds similarities of at least edge i and below edge i + 1."""
        return (np.arange(_BINS) - _OFFSET) / STEPS


def histogram(similarities: np.ndarray) -> np.ndarray:
    """How many of the similarities (any shape) are in each bin, ``int64 [bins]``; -inf is no pair, not counted."""
    counts = np.zeros(_BINS + 1, np.int64)
    flat = similarities.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        counts += np.bincount(_bins(flat[start : start + _CHUNK]), minlength=_BINS + 1)
    return counts[1:]


def _bins(similarities: np.ndarray) -> np.ndarray:
    """1 + the bin of each similarity, ``int64 [n]``; 0 where there is no pair (-inf)."""
    scaled = np.floor(similarities * STEPS)
    scaled += _OFFSET + 1
    np.clip(scaled, 0, _BINS, out=scaled)
    bins: np.ndarray = scaled.astype(np.int64)
    return bins


def least_step(counts: np.ndarray, rate: float) -> float:
    """The least multiple of 2⁻²⁰ with at most the share ``rate`` of the counted scores at or above it.

    Args:
        counts: ``int64 [bins]``, from :func:`histogram`.
        rate: between 0 and 1.
    """
    accepted = np.cumsum(counts[::-1])[::-1]  # scores in bin i or above
    lowest = int(np.count_nonzero(accepted > math.floor(Decimal(str(rate)) * int(counts.sum()))))
    return (lowest - _OFFSET) / STEPS


def threshold_at(counts: PairCounts, far: float) -> float:
    """The least multiple of 2⁻²⁰ at which at most the share ``far`` of the impostor pairs is accepted.

    Raises:
        RetrievalError: ``far`` not between 0 and 1, or fewer than 10/far impostor pairs.
    """
    require_pairs(int(counts.impostor.sum()), far)
    return least_step(counts.impostor, far)


def trials_needed(rate: float) -> int:
    """How many trials a rate between 0 and 1 needs: 10 / rate."""
    return math.ceil(TRIALS_PER_RATE / rate)


def least_rate(trials: int) -> float | None:
    """The least rate of two significant digits that so many trials can support; None where they support none."""
    if trials <= TRIALS_PER_RATE:
        return None
    return float(Context(prec=2, rounding=ROUND_CEILING).divide(Decimal(TRIALS_PER_RATE), Decimal(trials)))


def require_pairs(
    pairs: int,
    far: float,
    *,
    counted: str = "pairs of different classes",
    fix: str = "use more images, or state a higher rate in evaluation.false_accept_rates",
) -> None:
    """Refuse a false accept rate that this many impostor pairs cannot support.

    Args:
        pairs: how many there are.
        far: the rate.
        counted, fix: words of the message.

    Raises:
        RetrievalError: ``far`` not between 0 and 1, or fewer than 10/far pairs.
    """
    require_trials(
        pairs,
        far,
        rate="false accept rate",
        short="FAR",
        trials="impostor pairs",
        counted=counted,
        fix=fix,
    )


def require_trials(number: int, value: float, *, rate: str, short: str, trials: str, counted: str, fix: str) -> None:
    """Refuse a rate that so many trials cannot support: fewer than 10 / rate.

    Args:
        number: how many trials there are.
        value: the rate asked for.
        rate, short, trials, counted, fix: words of the message.

    Raises:
        RetrievalError: the rate not between 0 and 1, or too few trials.
    """
    if not 0.0 < value < 1.0:
        raise RetrievalError(f"a {rate} lies between 0 and 1", got=value, fix="for example 0.001")
    needed, least = trials_needed(value), least_rate(number)
    if number < needed:
        raise RetrievalError(
            f"too few {trials} to set a threshold at a {rate} of {value:g}",
            got=f"{number} {counted}",
            expected=f"at least {needed} ({TRIALS_PER_RATE} / {short})",
            fix=f"{fix}: {least:g} or more" if least is not None else f"{fix}; so few support no rate at all",
        )

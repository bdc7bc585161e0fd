"""Flips: queries that one of two models answers rightly and the other does not, and whether that could be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hetero.errors import RetrievalError


@dataclass(frozen=True)
class Flips:
    """Of queries answered by an old and by a new model.

    Attributes:
        lost: ``int64``, numbers of the queries that only the old one answers rightly (negative flips, Yan et al.,
            Positive-congruent training, CVPR 2021).
        won: those that only the new one does.
        p_value: two-sided exact McNemar test that both are as likely.
    """

    lost: np.ndarray
    won: np.ndarray
    p_value: float


def find_flips(old: np.ndarray, new: np.ndarray) -> Flips:
    """Flips between two models' answers to the same queries.

    Args:
        old, new: ``[q]``: 1 (or true) where the first match is right. A chance between 0 and 1, which ties give,
            counts as right from one half on.

    Raises:
        RetrievalError: not the same number of queries.
    """
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    if old.shape != new.shape or old.ndim != 1:
        raise RetrievalError(
            "flips need the same queries on both sides", got=f"{list(old.shape)} and {list(new.shape)} answers"
        )
    right_before, right_now = old >= 0.5, new >= 0.5
    lost, won = np.flatnonzero(right_before & ~right_now), np.flatnonzero(~right_before & right_now)
    return Flips(lost, won, mcnemar(len(lost), len(won)))


def mcnemar(lost: int, won: int) -> float:
    """Two-sided p-value of the exact McNemar test.

    Were both kinds of flips as likely, ``lost`` of ``lost + won`` would be binomial with chance 1/2.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika 1947; the exact form is the sign test of the discordant pairs.

    >>> mcnemar(1, 7)
    0.0703125
    """
    flips = lost + won
    tail = sum(math.comb(flips, k) for k in range(min(lost, won) + 1))
    return min(2 * tail, 2**flips) / 2**flips  # whole numbers, which have no largest

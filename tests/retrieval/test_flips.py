"""Flips and McNemar's test, against counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.flips import find_flips, mcnemar


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (3, 3), (1, 7), (9, 2), (0, 12)])
def test_the_p_value_is_the_share_of_coin_tosses_at_least_as_uneven(lost, won):
    tosses = list(itertools.product((0, 1), repeat=lost + won))
    uneven = [toss for toss in tosses if abs(2 * sum(toss) - len(toss)) >= abs(lost - won)]
    assert mcnemar(lost, won) == pytest.approx(len(uneven) / len(tosses))
    assert mcnemar(lost, won) == mcnemar(won, lost)


def test_flips_are_the_queries_right_on_one_side_only():
    flips = find_flips(np.array([1, 1, 0, 0, 1.0]), np.array([1, 0, 1, 0, 0.4]))
    assert flips.lost.tolist() == [1, 4]
    assert flips.won.tolist() == [2]
    assert flips.p_value == 1.0


def test_different_queries_cannot_be_compared():
    with pytest.raises(RetrievalError, match="same queries"):
        find_flips(np.ones(3), np.ones(4))


def test_thousands_of_flips_have_a_p_value_too():
    assert mcnemar(600, 600) == 1.0
    assert 0 < mcnemar(1030, 0) < 1e-300
    assert 0 < mcnemar(700, 600) < 0.01
    assert mcnemar(10_000, 10_100) == pytest.approx(0.484, abs=0.01)

"""The interval over trainings: Student's, as a table of quantiles says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hetero.errors import RetrievalError
from hetero.retrieval.trainings import _QUANTILES, over_trainings


def test_the_quantiles_are_students():
    assert pytest.approx(stats.t.ppf(0.975, np.arange(1, len(_QUANTILES) + 1)), abs=6e-5) == _QUANTILES


def test_the_interval_is_the_textbooks():
    found = over_trainings([1.0, 2.0, 4.5])
    mean, deviation = 2.5, ((1.5**2 + 0.5**2 + 2.0**2) / 2) ** 0.5
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 4.3027 * deviation / 3**0.5)
    assert found.high == pytest.approx(mean + 4.3027 * deviation / 3**0.5)


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_it_holds_the_truth_19_times_in_20(count):
    rng = np.random.default_rng(count)
    held = [one.low <= 7 <= one.high for one in map(over_trainings, rng.normal(7, 3, size=(4000, count)).tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_one_training_has_none():
    with pytest.raises(RetrievalError, match="needs two finite values"):
        over_trainings([0.5])
    with pytest.raises(RetrievalError, match="needs two finite values"):
        over_trainings([0.5, float("nan")])

"""Intervals: against a slow resampling, known cases, pairing and clusters."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import (
    Interval,
    cluster_sums,
    interval,
    intervals,
    paired_difference,
    ratio_interval,
    resampled_ratios,
)


def test_resamples_equal_a_loop_over_the_same_draws():
    rng = np.random.default_rng(0)
    values, weights = rng.random((9, 2)), rng.integers(1, 5, (9, 2))
    got = resampled_ratios(values, weights, seed=3, resamples=20)
    drawn = np.random.default_rng(3).integers(0, 9, size=(20, 9), dtype=np.int64)
    for row, indices in enumerate(drawn.tolist()):
        for column in range(2):
            expected = sum(values[i, column] for i in indices) / sum(weights[i, column] for i in indices)
            assert got[row, column] == pytest.approx(expected, rel=1e-12)


def test_chunks_draw_the_same_resamples(monkeypatch):
    values = np.random.default_rng(1).random(50)
    whole = interval(values, 5)
    monkeypatch.setattr("hetero.retrieval.bootstrap._CHUNK", 60)
    assert interval(values, 5) == pytest.approx(whole, rel=1e-14)


def test_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(2).standard_normal(2000)
    value, low, high = interval(values, 0)
    assert value == pytest.approx(values.mean(), abs=1e-12)
    error = values.std() / np.sqrt(2000)
    assert (value - low) / error == pytest.approx(1.96, abs=0.15)
    assert (high - value) / error == pytest.approx(1.96, abs=0.15)


def test_seed_decides_the_interval():
    values = np.random.default_rng(3).random(100)
    assert interval(values, 1) == interval(values, 1)
    assert interval(values, 1) != interval(values, 2)


def test_columns_share_their_resampled_queries():
    values = np.random.default_rng(4).random(80)
    first, second = intervals(np.stack([values, values], axis=1), seed=9)
    assert first == second == pytest.approx(interval(values, 9), rel=1e-14)


def test_paired_difference_is_narrower_than_two_intervals_apart():
    rng = np.random.default_rng(5)
    hard = rng.random(500)
    better = hard + 0.02
    value, low, high = paired_difference(better, hard, 0)
    assert (value, low, high) == pytest.approx((0.02, 0.02, 0.02), abs=1e-12)
    assert interval(better, 0).low < interval(hard, 0).high  # unpaired, the same two could not be told apart


def test_clusters_are_drawn_whole():
    """Queries of a class that all agree say no more than one query."""
    classes = np.repeat(np.arange(20), 10)
    values = np.repeat(np.random.default_rng(6).random(20), 10)
    single, clustered = interval(values, 0), interval(values, 0, clusters=classes)
    assert clustered.value == single.value
    assert (clustered.high - clustered.low) / (single.high - single.low) == pytest.approx(np.sqrt(10), rel=0.15)


def test_clusters_of_unequal_size_weigh_queries_equally():
    values, clusters = np.array([1.0, 1.0, 1.0, 0.0]), np.array([4, 4, 4, 2])
    value, low, high = interval(values, 0, clusters=clusters)
    assert (value, low, high) == (0.75, 0.0, 1.0)


def test_ratio_interval_is_of_the_sums():
    accepted, pairs = np.array([3, 0, 5]), np.array([4, 1, 5])
    value, low, high = ratio_interval(accepted, pairs, 0)
    assert value == 8 / 10
    assert 0.0 <= low < value < high <= 1.0
    # units without pairs may fill a resample: it has no rate and is left out
    assert ratio_interval(np.array([1, 0]), np.array([1, 0]), 0) == (1.0, 1.0, 1.0)


def test_the_mean_of_several_ratios_resamples_their_units_together():
    rng = np.random.default_rng(0)
    pairs = rng.integers(1, 5, (30, 2))
    accepted = rng.binomial(pairs, [0.3, 0.8])
    value, low, high = ratio_interval(accepted, pairs, 7)
    assert value == pytest.approx(np.mean([accepted[:, i].sum() / pairs[:, i].sum() for i in (0, 1)]))
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 30, 30)
        means.append(np.mean([accepted[drawn, i].sum() / pairs[drawn, i].sum() for i in (0, 1)]))
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.01)
    # what one ratio gains the other loses: drawn apart, their mean would have an interval
    ones = np.ones((30, 2))
    opposed = np.stack((np.arange(30) % 2, 1 - np.arange(30) % 2), axis=1)
    assert ratio_interval(opposed, ones, 7) == (0.5, 0.5, 0.5)
    with pytest.raises(RetrievalError, match="a rate over no pairs has no value"):
        ratio_interval(opposed, ones * [1, 0])


def test_cluster_sums_add_the_rows_of_each_cluster():
    sums = cluster_sums(np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([9, -1, 9]))
    assert sums.tolist() == [[3, 4], [6, 8]]


def test_interval_to_json():
    assert Interval(0.5, 0.25, 0.75).to_json() == {"value": 0.5, "low": 0.25, "high": 0.75}


def test_bootstrap_refuses():
    with pytest.raises(RetrievalError, match="finite values of at least one query; got 0 queries"):
        interval(np.array([]))
    with pytest.raises(RetrievalError, match="got 2 queries, 1 values not finite"):
        interval(np.array([0.0, np.nan]))
    with pytest.raises(RetrievalError, match=r"the same queries on both sides; got \[3\] and \[2\] values"):
        paired_difference(np.zeros(3), np.zeros(2))
    with pytest.raises(RetrievalError, match="a rate over no pairs has no value"):
        ratio_interval(np.zeros(2), np.zeros(2))

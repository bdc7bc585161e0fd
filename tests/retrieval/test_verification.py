"""Thresholds: against all pairs sorted in Python, at the boundaries, refusals, JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.histogram import STEPS, PairCounts, least_step, threshold_at
from hetero.retrieval.protocol import leave_one_out, query_gallery
from hetero.retrieval.verification import Threshold, accept_rates, calibrate, count_pairs, require_enough_pairs


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(seed, classes=12, each=6, dim=8, spread=0.5):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    base = unit(rng, classes, dim)[labels] + spread * unit(rng, len(labels), dim)
    query, gallery = base + 0.1 * unit(rng, len(labels), dim), base
    normalise = [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (query, gallery)]
    return (*normalise, labels)


def all_pairs(query, gallery, labels, groups=None):
    """Similarities of impostor and genuine pairs, by two loops."""
    impostor, genuine = [], []
    wide = query.astype(np.float64), gallery.astype(np.float64)
    for i, a in enumerate(wide[0]):
        for j, b in enumerate(wide[1]):
            if i == j or (groups is not None and groups[i] == groups[j] != -1):
                continue
            (genuine if labels[i] == labels[j] else impostor).append(float(a @ b))
    return np.array(impostor), np.array(genuine)


@pytest.mark.parametrize("far", [0.5, 0.1, 0.01, 0.0033])
def test_threshold_is_the_least_step_that_keeps_the_rate(far):
    query, gallery, labels = clustered(0)
    impostor, _ = all_pairs(query, gallery, labels)
    threshold = threshold_at(count_pairs(query, gallery, leave_one_out(labels)), far)
    assert threshold * STEPS == round(threshold * STEPS)
    allowed = math.floor(far * len(impostor))
    assert (impostor >= threshold).sum() <= allowed
    assert (impostor >= threshold - 1 / STEPS).sum() > allowed


def test_a_rate_is_the_decimal_number_that_was_written():
    counts = np.zeros(2**22, np.int64)
    counts[1000:1100] = 1
    assert 0.29 * 100 < 29  # in binary
    step = least_step(counts, 0.29)
    assert least_step(counts, 0.28) - step == 1 / STEPS


def test_every_pair_is_counted_once_in_its_bin():
    query, gallery, labels = clustered(1)
    groups = np.arange(len(labels)) // 3
    impostor, genuine = all_pairs(query, gallery, labels, groups)
    counts = count_pairs(query, gallery, leave_one_out(labels, groups))
    for got, values in ((counts.impostor, impostor), (counts.genuine, genuine)):
        assert got.sum() == len(values)
        lower = np.sort(np.floor(values * STEPS)) / STEPS
        np.testing.assert_allclose(np.repeat(counts.lower_edges, got), lower, atol=1.1 / STEPS)


def test_extreme_similarities_have_bins():
    vectors = np.array([[1, 0], [1, 0], [-1, 0], [-1, 0]], np.float32) * np.float32(1.0009)
    counts = count_pairs(vectors, vectors, leave_one_out(np.array([0, 1, 0, 1])))
    assert counts.impostor.sum() == 8
    assert counts.genuine.sum() == 4
    assert counts.lower_edges[counts.impostor > 0] == pytest.approx([-1.0018, 1.0018], abs=1e-5)


def test_constant_embedding_accepts_nothing_or_breaks_no_promise():
    constant = np.full((40, 4), 0.5, np.float32)
    counts = count_pairs(constant, constant, leave_one_out(np.arange(40) // 2))
    assert threshold_at(counts, 0.1) == 1 + 1 / STEPS


def test_calibrate_measures_on_the_test_classes():
    training, test = clustered(2, classes=20), clustered(3)
    sides = [(query, gallery, leave_one_out(labels)) for query, gallery, labels in (training, test)]
    thresholds = calibrate(sides[0], sides[1], (0.1, 0.01), seed=4)
    impostor, genuine = all_pairs(*test)
    training_impostor, _ = all_pairs(*training)
    for threshold, far in zip(thresholds, (0.1, 0.01), strict=True):
        at = threshold.similarity
        assert threshold.far == far
        assert threshold.impostor_pairs == len(training_impostor) == 20 * 6 * 19 * 6
        assert threshold.calibration_far == (training_impostor >= at).mean() <= far
        assert threshold.calibration_queries == 120
        assert threshold.true_accept_rate.value == pytest.approx((genuine >= at).mean())
        assert threshold.false_accept_rate.value == pytest.approx((impostor >= at).mean())
        assert (threshold.genuine_pairs, threshold.test_impostor_pairs) == (len(genuine), len(impostor))
        for rate in (threshold.true_accept_rate, threshold.false_accept_rate):
            assert rate.low <= rate.value <= rate.high
    assert thresholds[0].similarity < thresholds[1].similarity
    assert thresholds[0].true_accept_rate.value > thresholds[1].true_accept_rate.value


def test_true_accept_interval_is_over_queries():
    """One query of ten fails with all its pairs; the interval must show that it is one of ten."""
    rates = accept_rates(*_one_bad_query(), (0.5,), seed=0)
    ((genuine, impostor, num_genuine, num_impostor),) = rates
    assert genuine.value == 0.9
    assert genuine.low == pytest.approx(0.7)
    assert genuine.high == 1.0
    assert (impostor.value, num_genuine, num_impostor) == (0.1, 50, 50)


def _one_bad_query():
    query = np.tile(np.array([[1, 0]], np.float32), (10, 1))
    query[3] = [0, 1]
    gallery = np.array([[1, 0]] * 5 + [[0, 1]] * 5, np.float32)
    labels = np.array([0] * 10 + [0] * 5 + [1] * 5)
    return query, gallery, query_gallery(labels, np.array([1] * 10 + [2] * 10))


def test_queries_may_be_drawn_with_a_seed():
    query, gallery, labels = clustered(5)
    protocol = leave_one_out(labels)
    some = count_pairs(query, gallery, protocol, max_queries=10, seed=1)
    assert some.queries == 10
    assert some.impostor.sum() == 10 * 66
    again = count_pairs(query, gallery, protocol, max_queries=10, seed=1)
    np.testing.assert_array_equal(some.impostor, again.impostor)
    other = count_pairs(query, gallery, protocol, max_queries=10, seed=2)
    assert (some.impostor != other.impostor).any()
    assert count_pairs(query, gallery, protocol, max_queries=1000).queries == 72


def test_too_few_impostor_pairs_are_refused_with_both_numbers():
    query, gallery, labels = clustered(6, classes=5, each=2)
    counts = count_pairs(query, gallery, leave_one_out(labels))
    assert counts.impostor.sum() == 80
    with pytest.raises(RetrievalError, match=r"false accept rate of 0\.01; got 80 pairs .*; expected at least 1000 "):
        threshold_at(counts, 0.01)
    exactly = PairCounts(np.zeros_like(counts.impostor), counts.genuine, 10)
    exactly.impostor[:100] = 1
    threshold_at(exactly, 0.1)
    exactly.impostor[0] = 0
    with pytest.raises(RetrievalError, match="got 99 pairs"):
        threshold_at(exactly, 0.1)


def test_enough_pairs_are_as_many_as_the_calibration_will_draw():
    query, gallery, labels = clustered(6)
    protocol = leave_one_out(labels)
    require_enough_pairs(protocol, (0.01,))
    side = query, gallery, protocol
    for drawn, enough in ((16, True), (15, False)):  # 66 impostor pairs a query, 1,000 wanted
        for call in (
            lambda drawn=drawn: require_enough_pairs(protocol, (0.01,), max_queries=drawn, seed=1),
            lambda drawn=drawn: calibrate(side, side, (0.01,), max_queries=drawn, seed=1),
        ):
            if enough:
                call()
            else:
                with pytest.raises(RetrievalError, match=f"got {66 * drawn} pairs"):
                    call()


@pytest.mark.parametrize("far", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_outside_zero_and_one_is_refused(far):
    counts = PairCounts(np.ones(10, np.int64), np.ones(10, np.int64), 1)
    with pytest.raises(RetrievalError, match="a false accept rate lies between 0 and 1; got"):
        threshold_at(counts, far)


def test_threshold_survives_json():
    sides = [(query, gallery, leave_one_out(labels)) for query, gallery, labels in (clustered(7), clustered(8))]
    (threshold,) = calibrate(*sides, (0.05,))
    stored = json.loads(json.dumps(threshold.to_json()))
    assert Threshold.from_json(stored) == threshold
    assert np.float32(threshold.similarity) == threshold.similarity  # a phone compares with the same number
    for key, value, message in (
        ("far", 2.0, "not valid at far; got 2.0"),
        ("threshold_schema", 2, "not valid at threshold_schema; got 2"),
        ("colour", 1, "not valid at colour"),
        ("true_accept_rate", {"value": 2, "low": 0, "high": 1}, "not valid at true_accept_rate.value"),
    ):
        with pytest.raises(RetrievalError, match=message):
            Threshold.from_json({**stored, key: value})
    with pytest.raises(RetrievalError, match="not valid at threshold"):
        Threshold.from_json("0.5")

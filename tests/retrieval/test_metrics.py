"""Metrics against a gallery worked by hand, naive loops, every order of ties, and another library."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetero.errors import RetrievalError
from hetero.retrieval.metrics import METRICS, score
from hetero.retrieval.protocol import leave_one_out, query_gallery


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def angles(*degrees):
    """Vectors in the plane: the smaller the angle between two, the more similar."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def naive(ranking):
    """All metrics of one ranking, a list of booleans (is it right?), by the definitions alone."""
    relevant = sum(ranking)
    hits = [sum(ranking[: rank + 1]) for rank in range(len(ranking))]
    precision = [hit / (rank + 1) for rank, hit in enumerate(hits)]
    return {
        "r_at_1": float(any(ranking[:1])),
        "r_at_5": float(any(ranking[:5])),
        "r_at_10": float(any(ranking[:10])),
        "map": sum(p for p, right in zip(precision, ranking, strict=True) if right) / relevant,
        "map_at_r": sum(p for p, right in zip(precision[:relevant], ranking, strict=False) if right) / relevant,
        "mrr": 1 / (1 + ranking.index(True)),
    }


def naive_over_ties(similarities, right):
    """Mean of :func:`naive` over every order of the candidates that keeps the similarities descending."""
    totals = dict.fromkeys(METRICS, 0.0)
    orders = [
        order
        for order in itertools.permutations(range(len(right)))
        if all(similarities[a] >= similarities[b] for a, b in itertools.pairwise(order))
    ]
    for order in orders:
        for metric, value in naive([bool(right[place]) for place in order]).items():
            totals[metric] += value
    return {metric: total / len(orders) for metric, total in totals.items()}


def test_gallery_of_four_worked_by_hand():
    """Query 0 (class 0) sees, best first, images 1 (class 1), 2 (class 0), 3 (class 0)."""
    embeddings, labels = angles(0, 10, 25, 45), np.array([0, 1, 0, 0])
    scores = score(embeddings, embeddings, leave_one_out(labels))
    # image 0: wrong right right; image 2: at 15° wrong, at 20° right, at 25° right; image 3: right, wrong, right
    assert scores.queries.tolist() == [0, 2, 3]
    assert scores.skipped == 1
    np.testing.assert_array_equal(scores.r_at_1, [0, 0, 1])
    np.testing.assert_array_equal(scores.r_at_5, [1, 1, 1])
    np.testing.assert_array_equal(scores.rr, [1 / 2, 1 / 2, 1])
    np.testing.assert_allclose(scores.ap, [(1 / 2 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, (1 + 2 / 3) / 2], rtol=1e-15)
    np.testing.assert_allclose(scores.map_at_r, [1 / 4, 1 / 4, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(scores.cmc(3), [1 / 3, 1, 1], rtol=1e-15)
    assert scores.mean["mrr"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("classes", [3, 12])
def test_metrics_equal_naive_loops_without_ties(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 130)  # 3 classes: more right answers than _COUNT_LIMIT, so both counts run
    queries, gallery = unit(rng, 130, 12), unit(rng, 130, 12)
    scores = score(queries, gallery, leave_one_out(labels))
    wide = queries.astype(np.float64) @ gallery.astype(np.float64).T
    for place, query in enumerate(scores.queries):
        order = [other for other in np.argsort(-wide[query]).tolist() if other != query]
        expected = naive([bool(labels[other] == labels[query]) for other in order])
        for metric in METRICS:
            assert scores.per_query(metric)[place] == pytest.approx(expected[metric], abs=1e-13), metric


@given(
    right=st.lists(st.booleans(), min_size=1, max_size=6).filter(any),
    places=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_ties_score_the_mean_over_their_orders(right, places):
    degrees = [30 * place for place in places[: len(right)]]
    labels = np.array([1, *(int(is_right) for is_right in right)])
    roles = np.array([1, *[2] * len(right)])
    query, gallery = angles(0), angles(*degrees)
    scores = score(query, gallery, query_gallery(labels, roles))
    expected = naive_over_ties([-degree for degree in degrees], right)
    for metric in METRICS:
        assert scores.mean[metric] == pytest.approx(expected[metric], abs=1e-13), metric
    curve = [
        np.mean([any(right[p] for p in order[:k]) for order in _orders(degrees)]) for k in range(1, len(right) + 2)
    ]
    np.testing.assert_allclose(scores.cmc(len(right) + 1), curve, atol=1e-13)


def _orders(degrees):
    everything = itertools.permutations(range(len(degrees)))
    return [order for order in everything if all(degrees[a] <= degrees[b] for a, b in itertools.pairwise(order))]


def test_constant_embedding_scores_exactly_chance():
    labels = np.repeat(np.arange(6), 5)
    constant = np.full((30, 4), 0.5, np.float32)
    scores = score(constant, constant, leave_one_out(labels))
    n, relevant = 29, 4
    assert scores.r_at_1 == pytest.approx(np.full(30, relevant / n), abs=1e-15)
    for k, got in ((5, scores.r_at_5), (10, scores.r_at_10)):
        miss = math.comb(n - relevant, k) / math.comb(n, k)
        assert got == pytest.approx(np.full(30, 1 - miss), abs=1e-14)
    first = [math.comb(n - x, relevant - 1) / math.comb(n, relevant) for x in range(1, n + 1)]
    assert scores.rr == pytest.approx(np.full(30, sum(p / x for x, p in enumerate(first, 1))), abs=1e-14)
    ranks = [(relevant / n) * (1 + (x - 1) * (relevant - 1) / (n - 1)) / x for x in range(1, n + 1)]
    assert scores.ap == pytest.approx(np.full(30, sum(ranks) / relevant), abs=1e-14)
    assert scores.map_at_r == pytest.approx(np.full(30, sum(ranks[:relevant]) / relevant), abs=1e-14)


@given(seed=st.integers(0, 2**32 - 1), distinct=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_permuting_the_gallery_changes_nothing(seed, distinct):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 25)
    labels[:2] = 0
    which = rng.integers(0, distinct, 25)
    queries, gallery = unit(rng, distinct, 40)[which], unit(rng, distinct, 40)[which]
    roles = np.array([1] * 5 + [2] * 18 + [0] * 2)
    labels[23:] = labels[5]
    protocol = query_gallery(labels, roles)
    scores = score(queries[protocol.query_ids], gallery[protocol.gallery_ids], protocol)
    order = np.concatenate([rng.permutation(23), [23, 24]])
    mixed = query_gallery(labels[order], roles[order])
    again = score(queries[order][mixed.query_ids], gallery[order][mixed.gallery_ids], mixed)
    for metric in METRICS:
        np.testing.assert_array_equal(np.sort(scores.per_query(metric)), np.sort(again.per_query(metric)))


def test_duplicates_tie_wherever_they_stand_in_a_large_gallery():
    """A blocked product may give equal vectors different last bits; ranks must not depend on that."""
    rng = np.random.default_rng(3)
    gallery = np.repeat(unit(rng, 1, 67), 1001, axis=0)
    labels = np.zeros(1001, np.int64)
    labels[rng.choice(1001, 900, replace=False)] = 1
    protocol = query_gallery(np.concatenate([[0], labels]), np.array([1] + [2] * 1001))
    scores = score(unit(rng, 1, 67), gallery, protocol)
    assert scores.first.tolist() == [[0, 1001, 101]]


@pytest.mark.parametrize(("seed", "n", "classes", "dim"), [(0, 60, 5, 8), (1, 150, 30, 16), (2, 200, 3, 32)])
@pytest.mark.parametrize("together", [True, False])
def test_agrees_with_pytorch_metric_learning(seed, n, classes, dim, together, needs):
    torch = needs("torch")
    calculator_module = needs("pytorch_metric_learning.utils.accuracy_calculator")
    inference = needs("pytorch_metric_learning.utils.inference")
    distances = needs("pytorch_metric_learning.distances")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    other_labels = rng.permutation(np.arange(n + 13) % classes)
    queries, gallery = unit(rng, n, dim), unit(rng, n + 13, dim)
    names = ("precision_at_1", "mean_average_precision", "mean_average_precision_at_r", "mean_reciprocal_rank")
    standard = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # that library takes 1/rank in the default type, float32 misses 1e-9
    try:
        calculator = calculator_module.AccuracyCalculator(
            include=names,
            device=torch.device("cpu"),
            knn_func=inference.CustomKNN(distances.CosineSimilarity(), batch_size=64),
        )
        wide = [torch.from_numpy(vectors.astype(np.float64)) for vectors in (queries, gallery)]
        if together:
            expected = calculator.get_accuracy(wide[0], torch.from_numpy(labels))
            scores = score(queries, queries, leave_one_out(labels))
        else:
            expected = calculator.get_accuracy(
                wide[0], torch.from_numpy(labels), wide[1], torch.from_numpy(other_labels), False
            )
            roles = np.array([1] * n + [2] * (n + 13))
            scores = score(queries, gallery, query_gallery(np.concatenate([labels, other_labels]), roles))
    finally:
        torch.set_default_dtype(standard)
    for name, metric in zip(names, ("r_at_1", "map", "map_at_r", "mrr"), strict=True):
        assert scores.mean[metric] == pytest.approx(expected[name], abs=1e-9), name


def test_one_query_at_a_time_gives_the_same_bits(monkeypatch):
    rng = np.random.default_rng(4)
    vectors, labels = unit(rng, 90, 24), rng.integers(0, 9, 90)
    whole = score(vectors, vectors, leave_one_out(labels))
    monkeypatch.setattr("hetero.retrieval.metrics._BLOCK_BYTES", 1)
    single = score(vectors, vectors, leave_one_out(labels))
    for metric in METRICS:
        np.testing.assert_array_equal(whole.per_query(metric), single.per_query(metric))


def test_memory_stays_below_the_full_matrix(monkeypatch):
    monkeypatch.setattr("hetero.retrieval.metrics._BLOCK_BYTES", 4 * 2**20)
    rng = np.random.default_rng(5)
    vectors, labels = unit(rng, 4000, 8), np.arange(4000) // 2
    protocol = leave_one_out(labels)
    tracemalloc.start()
    score(vectors, vectors, protocol)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000 * 8 / 5


def test_score_refuses_embeddings_that_do_not_fit():
    rng = np.random.default_rng(6)
    vectors, protocol = unit(rng, 10, 4), leave_one_out(np.arange(10) // 2)
    with pytest.raises(RetrievalError, match="query embeddings do not fit the protocol; got 9 embeddings; expected 10"):
        score(vectors[:9], vectors, protocol)
    with pytest.raises(RetrievalError, match="gallery embeddings do not fit the protocol; got 9"):
        score(vectors, vectors[:9], protocol)
    with pytest.raises(RetrievalError, match="query embeddings have another dimension"):
        score(unit(rng, 10, 5), vectors, protocol)
    with pytest.raises(RetrievalError, match="gallery embeddings are not L2-normalised"):
        score(vectors, 2 * vectors, protocol)
    broken = vectors.copy()
    broken[3, 1] = np.nan
    with pytest.raises(RetrievalError, match="query embeddings hold a value that is not a number; got nan in row 3"):
        score(broken, vectors, protocol)
    with pytest.raises(RetrievalError, match="no query has a possible match"):
        score(vectors, vectors, leave_one_out(np.arange(10)))

"""Exact search: the same bits on every path, equal similarities by lower row, never a large matrix."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetero.errors import MissingExtraError, RetrievalError
from hetero.retrieval import exact
from hetero.retrieval.exact import search_numpy, search_torch
from hetero.retrieval.vectors import on_grid

SEARCHES = [search_numpy, search_torch]


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_search(queries, vectors, k, exclude=None):
    """Python integers on the grid of 2⁻²⁶, which no rounding can touch, sorted by (−similarity, row)."""
    similarities, indices = [], []
    scaled_vectors = [[round(float(x) * 2**26) for x in vector] for vector in vectors]
    for number, query in enumerate(queries):
        scaled = [round(float(x) * 2**26) for x in query]
        banned = set() if exclude is None else set(np.atleast_1d(exclude[number]).tolist())
        ranked = sorted(
            (-sum(a * b for a, b in zip(scaled, vector, strict=True)), row)
            for row, vector in enumerate(scaled_vectors)
            if row not in banned
        )[:k]
        similarities.append([-negative / 2**52 for negative, _ in ranked])
        indices.append([row for _, row in ranked])
    return np.array(similarities), np.array(indices)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("query_block", "vector_block"), [(1024, 8192), (3, 100), (1, 64), (4, 7)])
def test_search_equals_integer_arithmetic_to_the_last_bit(search, query_block, vector_block):
    rng = np.random.default_rng(0)
    queries, vectors = unit(rng, 7, 16), unit(rng, 300, 16)
    found = search(queries, vectors, 5, query_block=query_block, vector_block=vector_block)
    for got, expected in zip(found, slow_search(queries, vectors, 5), strict=True):
        np.testing.assert_array_equal(got, expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 200),
    distinct=st.integers(1, 6),
    k=st.integers(1, 40),
    block=st.integers(1, 90),
)
@settings(max_examples=40, deadline=None)
def test_duplicates_tie_and_come_in_order_of_their_row(seed, num, distinct, k, block):
    rng = np.random.default_rng(seed)
    k = min(k, num)
    vectors = unit(rng, distinct, 8)[rng.integers(0, distinct, num)]
    queries = np.concatenate([unit(rng, 2, 8), vectors[:1]])
    found = search_numpy(queries, vectors, k, vector_block=block, query_block=2)
    for got, expected in zip(found, slow_search(queries, vectors, k), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("search", SEARCHES)
def test_near_duplicates_below_float32_resolution_are_ranked_exactly(search):
    rng = np.random.default_rng(1)
    base = unit(rng, 1, 64)
    vectors = (base + 1e-7 * rng.standard_normal((400, 64))).astype(np.float32)
    found = search(base, vectors, 10, vector_block=128)
    for got, expected in zip(found, slow_search(base, vectors, 10), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_constant_gallery_returns_the_first_rows():
    vectors = np.full((500, 4), 0.5, np.float32)
    similarities, indices = search_numpy(vectors[:3], vectors, 4, exclude=np.array([0, 2, -1]), vector_block=64)
    np.testing.assert_array_equal(indices, [[1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3]])
    np.testing.assert_array_equal(similarities, 1.0)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_gallery_of_many_blocks_is_searched_right(search):
    """Late blocks hold few hits, which are picked out of their groups of 64 one by one."""
    rng = np.random.default_rng(12)
    queries, vectors = unit(rng, 6, 16), unit(rng, 9000, 16)
    similarities, indices = search(queries, vectors, 4, vector_block=1000)
    exact = on_grid(queries) @ on_grid(vectors).T
    np.testing.assert_array_equal(indices, np.argsort(-exact, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(similarities, -np.sort(-exact, axis=1)[:, :4])


def test_a_gallery_sorted_from_worst_to_best_is_searched_right():
    """The running bound is then always too low, which is the case that fills the waiting list."""
    rng = np.random.default_rng(2)
    query, vectors = unit(rng, 1, 8), unit(rng, 4000, 8)
    vectors = vectors[np.argsort(vectors @ query[0])]
    _, indices = search_numpy(np.repeat(query, 50, 0), vectors, 3, vector_block=128)
    np.testing.assert_array_equal(indices, np.tile([3999, 3998, 3997], (50, 1)))


@pytest.mark.parametrize("copies", [5, 26, 60])
def test_no_vector_outside_the_candidates_of_large_blocks_is_better(copies):
    """The last of the best groups' maxima is kept, too, or a bound would claim that nothing is outside."""
    rng, keep = np.random.default_rng(6), 26
    queries, vectors = unit(rng, 3, 16), unit(rng, 20_000, 16)
    vectors[rng.permutation(128)[:copies] + 128 * rng.integers(0, 64, copies)] = queries[1]  # one in a group
    none = np.full((3, 1), -1)
    bound, candidates = exact._candidates(queries, vectors, keep, none, exact.numpy_scores, 8192)
    scores = queries @ vectors.T
    assert (candidates >= 0).all()
    np.put_along_axis(scores, candidates, -1, axis=1)
    assert (scores.max(axis=1) <= bound + 1e-6).all()  # float32 products of other shapes differ in their last bits


@pytest.mark.parametrize("search", SEARCHES)
def test_excluded_rows_never_come_back(search):
    rng = np.random.default_rng(3)
    vectors = unit(rng, 150, 8)
    exclude = np.stack([np.arange(150), np.roll(np.arange(150), 1), np.full(150, -1)], axis=1)
    similarities, indices = search(vectors, vectors, 3, exclude=exclude, vector_block=50, query_block=40)
    expected = slow_search(vectors, vectors, 3, exclude)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(similarities, expected[0])


def test_all_candidates_can_be_asked_for():
    rng = np.random.default_rng(4)
    vectors = unit(rng, 12, 4)
    _, indices = search_numpy(vectors, vectors, 11, exclude=np.arange(12))
    for row, found in enumerate(indices):
        assert sorted(found.tolist()) == [other for other in range(12) if other != row]


def test_results_do_not_depend_on_where_a_vector_stands():
    rng = np.random.default_rng(5)
    queries, vectors = unit(rng, 20, 32), unit(rng, 700, 32)
    order = rng.permutation(700)
    similarities, indices = search_numpy(queries, vectors, 6)
    permuted_similarities, permuted = search_numpy(queries, vectors[order], 6, vector_block=99)
    np.testing.assert_array_equal(similarities, permuted_similarities)
    np.testing.assert_array_equal(indices, order[permuted])


def test_float64_and_float16_vectors_are_searched_too():
    rng = np.random.default_rng(6)
    vectors = unit(rng, 50, 16)
    _, expected = search_numpy(vectors, vectors, 2)
    _, double = search_numpy(vectors.astype(np.float64), vectors.astype(np.float64), 2)
    _, half = search_numpy(vectors.astype(np.float16), vectors.astype(np.float16), 1)
    np.testing.assert_array_equal(double, expected)
    np.testing.assert_array_equal(half[:, 0], np.arange(50))


def test_memory_stays_below_the_full_matrix():
    rng = np.random.default_rng(7)
    vectors = unit(rng, 6000, 16)
    search_numpy(vectors[:10], vectors, 5)
    tracemalloc.start()
    search_numpy(vectors, vectors, 5, query_block=256, vector_block=1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 8


@pytest.mark.parametrize(
    ("k", "exclude", "message"),
    [
        (0, None, "k is not positive; got k = 0"),
        (21, None, r"got k = 21; expected 1\.\.20 "),
        (20, np.arange(3), r"got k = 20; expected 1\.\.19 "),
        (19, np.array([[0, 1], [2, 2], [-1, -1]]), r"got k = 19; expected 1\.\.18 "),
        (1, np.arange(4), r"exclude does not fit the queries; got int64 \[4\]; expected integers \[3\]"),
        (1, np.zeros(3), "exclude does not fit the queries; got float64"),
        (1, np.array([0, 20, 1]), r"exclude names a row outside the gallery; got 0\.\.20; expected -1\.\.19"),
        (1, np.array([0, -2, 1]), "exclude names a row outside the gallery; got -2"),
    ],
)
def test_search_refuses_what_it_cannot_answer(k, exclude, message):
    vectors = unit(np.random.default_rng(8), 20, 4)
    with pytest.raises(RetrievalError, match=message):
        search_numpy(vectors[:3], vectors, k, exclude=exclude)


def test_twice_the_same_excluded_row_counts_once():
    vectors = unit(np.random.default_rng(9), 4, 4)
    _, indices = search_numpy(vectors[:1], vectors, 3, exclude=np.array([[2, 2]]))
    assert sorted(indices[0].tolist()) == [0, 1, 3]


@pytest.mark.parametrize("search", SEARCHES)
def test_search_refuses_another_dimension(search):
    rng = np.random.default_rng(10)
    with pytest.raises(
        RetrievalError, match="query vectors have another dimension; got dimension 5; expected dimension 4"
    ):
        search(unit(rng, 2, 5), unit(rng, 9, 4), 1)


def test_search_without_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    vectors = unit(np.random.default_rng(11), 5, 4)
    with pytest.raises(MissingExtraError, match=r"pip install 'hetero\[train\]'"):
        search_torch(vectors, vectors, 1)


def test_a_rerank_in_blocks_of_bounded_memory_changes_nothing(monkeypatch):
    rng = np.random.default_rng(8)
    queries, vectors = unit(rng, 50, 16), unit(rng, 400, 16)
    whole = search_numpy(queries, vectors, 30)
    sizes, real = [], exact.on_grid
    monkeypatch.setattr(exact, "on_grid", lambda rows: (sizes.append(rows.size), real(rows))[1])
    monkeypatch.setattr(exact, "_RERANK_BYTES", 8 * 46 * 16 * 7)  # seven queries' candidates at a time
    assert all(np.array_equal(*pair) for pair in zip(whole, search_numpy(queries, vectors, 30), strict=True))
    assert max(size for size in sizes if size != vectors.size) <= 46 * 16 * 7

"""What counts as vectors, and similarities that are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.vectors import check_vectors, on_grid


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_dot_products_on_the_grid_are_exact():
    rng = np.random.default_rng(0)
    first, second = on_grid(unit(rng, 3, 200)), on_grid(unit(rng, 4, 200))
    products = first @ second.T
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
            assert Fraction(float(products[i, j])) == exact


def test_grid_moves_no_component_by_more_than_half_a_step():
    vectors = unit(np.random.default_rng(1), 50, 10)
    assert np.abs(on_grid(vectors) - vectors).max() <= 2.0**-27


def test_check_returns_contiguous_single_or_double_precision():
    vectors = unit(np.random.default_rng(2), 10, 6)
    assert check_vectors("v", vectors.astype(np.float16)).dtype == np.float32
    assert check_vectors("v", vectors.astype(np.float64)).dtype == np.float64
    assert check_vectors("v", np.asfortranarray(vectors)).flags.c_contiguous
    assert check_vectors("v", vectors) is vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(4, np.float32), r"probes are not a table of vectors; got float32 \[4\]"),
        (np.ones((2, 2), np.int64), "not a table of vectors; got int64"),
        (np.zeros((0, 4), np.float32), r"got float32 \[0, 4\]"),
        (np.array([[1, 0], [np.nan, 0]], np.float32), "not a number; got nan in row 1"),
        (np.array([[1, 0], [0, np.inf]], np.float32), "not a number; got inf in row 1"),
        (np.array([[0, 1], [1, 1]], np.float32), r"probes are not L2-normalised; got norm 1.41421 in row 1"),
        (np.zeros((1, 2), np.float32), "not L2-normalised; got norm 0 in row 0"),
        (np.array([[0.998, 0]], np.float32), "not L2-normalised"),
    ],
)
def test_check_refuses(vectors, message):
    with pytest.raises(RetrievalError, match=message):
        check_vectors("probes", vectors)


def test_check_refuses_another_dimension():
    with pytest.raises(RetrievalError, match="got dimension 2; expected dimension 3"):
        check_vectors("probes", np.eye(2, dtype=np.float32), dim=3)


def test_check_finds_a_bad_row_far_down():
    vectors = np.tile(np.array([[1, 0]], np.float32), (70_000, 1))
    vectors[69_999] = np.nan
    with pytest.raises(RetrievalError, match="row 69999"):
        check_vectors("probes", vectors)

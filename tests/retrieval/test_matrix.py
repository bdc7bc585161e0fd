"""All models of a space against each other, and the worst pair of them."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.matrix import space_matrix
from hetero.retrieval.metrics import score
from hetero.retrieval.protocol import leave_one_out

LABELS = np.array([0, 0, 1, 1])
RIGHT = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)  # each picture's class
WRONG = RIGHT[::-1].copy()  # each picture's other class
HALF = RIGHT[[0, 1, 0, 2]]  # right about three of four, and the third is of class 0


def test_every_pair_is_scored_and_the_worst_is_named():
    protocol = leave_one_out(LABELS)
    models = {"large": RIGHT, "half": HALF, "wrong": WRONG}
    matrix = space_matrix(models, protocol)
    assert matrix.models == ("large", "half", "wrong")
    assert set(matrix.cells) == {(a, b) for a in models for b in models}
    for (query, gallery), scores in matrix.cells.items():
        assert scores.mean == score(models[query], models[gallery], protocol).mean
    assert matrix.cells["large", "large"].mean["r_at_1"] == 1
    assert matrix.cells["large", "wrong"].mean["r_at_1"] == 0
    assert matrix.minimum() == ("large", "wrong")  # the first of two with 0
    assert matrix.minimum("map_at_r") == ("large", "wrong")


def test_known_cells_are_taken_as_they_are():
    protocol = leave_one_out(LABELS)
    known = score(WRONG, RIGHT, protocol)
    matrix = space_matrix({"a": RIGHT, "b": RIGHT}, protocol, {("a", "b"): known})
    assert matrix.cells["a", "b"] is known
    assert matrix.minimum() == ("a", "b")


def test_a_matrix_without_models_is_refused():
    with pytest.raises(RetrievalError, match="a matrix needs models"):
        space_matrix({}, leave_one_out(LABELS))

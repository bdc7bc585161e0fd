"""Space ids: what they depend on, and that two spaces never search each other."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hetero.errors import SpaceMismatchError
from hetero.space import define_space, require_same_space, space_id, weights_digest

BASE = {"weights_sha256": "a" * 64, "preprocess_fingerprint": "b" * 64, "dim": 128}


def test_space_id_is_stable_across_releases():
    assert space_id(**BASE) == "hs1-" + "b126eea9ac5fd021ebb6d82e"


@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "c" * 64}, {"preprocess_fingerprint": "c" * 64}, {"dim": 64}, {"normalised": False}],
)
def test_each_part_of_the_identity_changes_the_id(change):
    assert space_id(**(BASE | change)) != space_id(**BASE)


def test_weights_digest_sees_names_shapes_types_and_every_bit():
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, dtype=np.int64)}
    digest = weights_digest(weights)
    assert weights_digest(dict(reversed(weights.items()))) == digest
    flipped = weights["a"].copy()
    flipped.view(np.uint32)[0, 0] ^= 1
    for other in (
        weights | {"a": flipped},
        weights | {"a": weights["a"].reshape(3, 2)},
        weights | {"a": weights["a"].astype(np.float64)},
        weights | {"n": np.array([3], dtype=np.int64)},
        {"b": weights["a"], "n": weights["n"]},
    ):
        assert weights_digest(other) != digest


def test_weights_digest_is_independent_of_memory_layout():
    array = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    assert weights_digest({"w": array}) == weights_digest({"w": np.asfortranarray(array)})


def test_two_spaces_of_equal_dimension_refuse_each_other_naming_both():
    one, two = define_space(**BASE), define_space(**(BASE | {"weights_sha256": "c" * 64}))
    assert one.dim == two.dim
    with pytest.raises(SpaceMismatchError) as error:
        require_same_space(one.id, two.id, query="student 'tiny'", gallery="gallery 'shop'")
    for part in (one.id, two.id, "student 'tiny'", "gallery 'shop'", "fix:"):
        assert part in str(error.value)
    require_same_space(one.id, one.id, query="student 'tiny'", gallery="gallery 'shop'")


def test_a_space_record_is_frozen_and_refuses_unknown_keys():
    space = define_space(**BASE)
    with pytest.raises(ValidationError):
        space.dim = 3
    with pytest.raises(ValidationError):
        type(space).model_validate(space.model_dump() | {"colour": 1})

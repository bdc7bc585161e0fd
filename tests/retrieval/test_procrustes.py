"""The best rotation between two models' embeddings: exact where there is one, least squares where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.procrustes import mapped, orthogonal_map
from hetero.retrieval.rotations import random_rotation


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def embeddings():
    return unit(np.random.default_rng(0).normal(size=(60, 8)))


def test_a_turned_model_is_turned_back(embeddings):
    turned = (embeddings @ random_rotation(8, np.random.default_rng(1))).astype(np.float32)
    assert mapped(turned, orthogonal_map(turned, embeddings)) == pytest.approx(embeddings, abs=1e-6)


def test_no_other_rotation_comes_nearer(embeddings):
    generator = np.random.default_rng(2)
    other = unit(embeddings @ random_rotation(8, generator) + 0.3 * generator.normal(size=embeddings.shape))
    best = orthogonal_map(other, embeddings)
    assert best @ best.T == pytest.approx(np.eye(8), abs=1e-9)

    def error(rotation):
        return float(np.square(other @ rotation - embeddings).sum())

    nearby = np.eye(8)
    for _ in range(200):
        skew = 0.05 * generator.normal(size=(8, 8))
        nearby, _ = np.linalg.qr(np.eye(8) + skew - skew.T)
        nearby = nearby * np.sign(np.diag(nearby))
        assert error(best) < min(error(best @ nearby), error(random_rotation(8, generator)))


def test_what_is_mapped_keeps_its_own_similarities_and_length(embeddings):
    rotation = random_rotation(8, np.random.default_rng(3))
    found = mapped(embeddings, rotation)
    assert found.dtype == np.float32
    assert found @ found.T == pytest.approx(embeddings @ embeddings.T, abs=1e-6)


def test_embeddings_of_different_images_are_refused(embeddings):
    with pytest.raises(RetrievalError, match=r"same images.*\[60, 8\] and \[59, 8\]"):
        orthogonal_map(embeddings, embeddings[:-1])

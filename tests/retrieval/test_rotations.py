"""Random rotations: what they are, what scores they give, and that a control's lie among them."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.metrics import score
from hetero.retrieval.protocol import leave_one_out, query_gallery
from hetero.retrieval.rotations import RotationBand, random_rotation, rotation_band


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def classes(rng, count=20, each=5, dim=8, noise=0.4):
    labels = np.arange(count).repeat(each)
    centres = rng.normal(size=(count, dim))
    return labels, unit(centres[labels] + noise * rng.normal(size=(count * each, dim)))


def test_a_random_rotation_keeps_lengths_and_angles_and_favours_no_direction():
    rng = np.random.default_rng(0)
    found = np.stack([random_rotation(4, rng) for _ in range(4000)])
    assert np.allclose(found @ found.transpose(0, 2, 1), np.eye(4), atol=1e-12)
    assert np.abs(found.mean(0)).max() < 4 * 0.5 / np.sqrt(4000)  # entries have mean 0 and variance 1/4
    assert np.allclose(found.var(0), 0.25, atol=0.02)
    assert 0.45 < (np.linalg.det(found) > 0).mean() < 0.55


@pytest.mark.parametrize("grouped", [False, True])
def test_each_score_is_that_of_the_rotated_embeddings(grouped):
    rng = np.random.default_rng(1)
    labels, gallery = classes(rng)
    query = unit(gallery + 0.3 * rng.normal(size=gallery.shape))
    groups = np.arange(len(labels)) % 5 // 2 + 10 * labels if grouped else None
    protocol = leave_one_out(labels, groups)
    band = rotation_band(query, gallery, protocol, rotations=6, seed=3)
    generator = np.random.default_rng(3)
    for number in range(6):
        turned = unit(query @ random_rotation(8, generator))
        expected = score(turned, gallery, protocol).mean
        assert band.r_at_1[number] == pytest.approx(expected["r_at_1"], abs=1e-6)
        assert band.map_at_r[number] == pytest.approx(expected["map_at_r"], abs=1e-6)


def test_queries_and_gallery_may_be_different_images_with_different_numbers_of_matches():
    rng = np.random.default_rng(2)
    labels, gallery = classes(rng)
    roles = np.where(np.arange(len(labels)) % 5 == 0, 1, 2)
    roles[7] = 1
    protocol = query_gallery(labels, roles)
    band = rotation_band(gallery, gallery, protocol, rotations=3, seed=5)
    generator = np.random.default_rng(5)
    for number in range(3):
        turned = unit(gallery @ random_rotation(8, generator))
        expected = score(turned[protocol.query_ids], gallery[protocol.gallery_ids], protocol).mean
        assert band.r_at_1[number] == pytest.approx(expected["r_at_1"], abs=1e-6)
        assert band.map_at_r[number] == pytest.approx(expected["map_at_r"], abs=1e-6)


def test_an_embedding_of_the_same_classes_in_another_space_lies_within_and_one_in_the_space_above():
    rng = np.random.default_rng(4)
    labels, gallery = classes(rng, count=60, dim=16)
    protocol = leave_one_out(labels)
    stranger = unit(gallery @ random_rotation(16, rng))  # as good a model, in a space of its own
    band = rotation_band(stranger, gallery, protocol, rotations=100)
    for metric in ("r_at_1", "map_at_r"):
        low, high = band.central(metric)
        assert low <= score(stranger, gallery, protocol).mean[metric] <= high
        assert score(gallery, gallery, protocol).mean[metric] > 5 * high


def test_equal_similarities_are_no_better_or_worse_for_the_order_of_the_rows():
    """As in a score, which is the mean over their orders; by rows, all of a class would come first for its queries."""
    labels = np.repeat(np.arange(12), 5)
    constant = np.full((60, 4), 0.5, np.float32)
    protocol = leave_one_out(labels)
    band = rotation_band(constant, constant, protocol, rotations=200)
    for metric in ("r_at_1", "map_at_r"):
        values = getattr(band, metric)
        expected = score(constant, constant, protocol).mean[metric]
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))
        assert values.std() > 0


def test_no_rotation_is_refused():
    labels, gallery = classes(np.random.default_rng(0))
    with pytest.raises(RetrievalError, match="a band needs rotations"):
        rotation_band(gallery, gallery, leave_one_out(labels), rotations=0)


@pytest.mark.parametrize("rotations", [39, 100])
def test_one_more_score_is_outside_the_band_once_in_twenty(rotations):
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(4000):
        scores = rng.normal(size=rotations + 1)
        low, high = RotationBand(scores[1:], scores[1:]).central("r_at_1")
        outside += not low <= scores[0] <= high
    assert outside / 4000 == pytest.approx(0.05, abs=0.011)  # three standard deviations

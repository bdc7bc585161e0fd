"""The four cells, the rule, the raw-pixel row and chance."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval.compat import CELLS, chance_level, compare, pixel_baseline
from hetero.retrieval.metrics import METRICS, score
from hetero.retrieval.protocol import leave_one_out, query_gallery


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def two_models(seed=0, classes=30, each=5, dim=32):
    """A sharp gallery model and a blurred query model in its space; and that query model in a space of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = unit(rng, classes, dim)[labels]
    sides = [centres + spread * unit(rng, len(labels), dim) for spread in (0.7, 1.4)]
    gallery, query = ((v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in sides)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return gallery, query, (query @ rotation).astype(np.float32), labels


def test_cells_are_scored_with_the_right_model_on_each_side():
    gallery, query, _, labels = two_models()
    protocol = leave_one_out(labels)
    report = compare(query, gallery, protocol)
    sides = {"paragon": (gallery, gallery), "heterogeneous": (query, gallery)}
    sides |= {"homogeneous": (query, query), "reverse": (gallery, query)}
    for cell, (left, right) in sides.items():
        expected = score(left, right, protocol).mean
        for metric in METRICS:
            measured = report.cells[cell][metric]
            assert measured.value == pytest.approx(expected[metric], abs=1e-12)
            assert measured.low <= measured.value <= measured.high
    assert report.cells["paragon"]["map_at_r"].value > report.cells["heterogeneous"]["map_at_r"].value


def test_rule_is_satisfied_in_the_space_and_not_outside_it():
    gallery, query, alone, labels = two_models()
    protocol = leave_one_out(labels)
    inside, outside = compare(query, gallery, protocol), compare(alone, gallery, protocol)
    for metric in ("r_at_1", "map_at_r"):
        assert inside.rule[metric].satisfied
        assert inside.rule[metric].difference.low > 0
        assert not outside.rule[metric].satisfied
        cells = outside.cells
        difference = cells["heterogeneous"][metric].value - cells["homogeneous"][metric].value
        assert outside.rule[metric].difference.value == pytest.approx(difference)
    assert outside.cells["homogeneous"]["r_at_1"].value == pytest.approx(inside.cells["homogeneous"]["r_at_1"].value)


def test_a_model_against_itself_does_not_satisfy_the_rule():
    gallery, _, _, labels = two_models()
    report = compare(gallery, gallery, leave_one_out(labels))
    assert tuple(report.rule["r_at_1"].difference) == (0.0, 0.0, 0.0)
    assert not report.rule["r_at_1"].satisfied


def test_roles_pick_rows_of_both_models():
    gallery, query, _, labels = two_models()
    roles = np.where(np.arange(len(labels)) % 5 == 0, 1, 2)
    protocol = query_gallery(labels, roles)
    report = compare(query, gallery, protocol)
    expected = score(query[roles == 1], gallery[roles == 2], protocol).mean["map"]
    assert report.cells["heterogeneous"]["map"].value == pytest.approx(expected)
    assert (report.queries, report.gallery) == (30, 120)


def test_json_has_the_keys_of_the_report_spec():
    gallery, query, _, labels = two_models()
    report = compare(query, gallery, leave_one_out(labels), macs=(5_000_000, 200_000), params=(900, 300), resamples=50)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(value["cells"]) == set(CELLS) == {"paragon", "heterogeneous", "homogeneous", "reverse"}
    for cell in value["cells"].values():
        assert set(cell) >= {"r_at_1", "r_at_5", "map_at_r"}
        assert all(set(measured) == {"value", "low", "high"} for measured in cell.values())
    assert set(value["rule"]) == {"r_at_1", "map_at_r"}
    for rule in value["rule"].values():
        assert set(rule) == {"satisfied", "difference", "low", "high"}
        assert rule["satisfied"] is (rule["low"] > 0)
    assert value["macs"] == {"gallery": 5_000_000, "query": 200_000, "ratio": 25.0}
    assert value["params"]["ratio"] == 3.0
    assert (value["queries"], value["queries_without_match"], value["gallery"]) == (150, 0, 150)
    assert value["bootstrap"]["resamples"] == 50
    assert "macs" not in compare(query, gallery, leave_one_out(labels), resamples=10).to_json()


def test_compare_refuses_different_images():
    gallery, query, _, labels = two_models()
    with pytest.raises(RetrievalError, match="did not embed the same images; got 149 embeddings"):
        compare(query[:-1], gallery, leave_one_out(labels))
    with pytest.raises(RetrievalError, match="expected the same number, at least 150"):
        compare(query[:-1], gallery[:-1], leave_one_out(labels))


def test_chance_is_the_share_of_right_candidates():
    assert chance_level(leave_one_out(np.repeat(np.arange(659), 20))) == pytest.approx(19 / 13_179)
    protocol = leave_one_out(np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, -1, -1, -1, -1]))
    # queries 0, 1: one right of four; 2: two of five; 3, 4: one of five; 5: none, not scored
    assert chance_level(protocol) == pytest.approx((1 / 4 + 1 / 4 + 2 / 5 + 1 / 5 + 1 / 5) / 5)
    constant = np.full((6, 4), 0.5, np.float32)
    assert score(constant, constant, protocol).mean["r_at_1"] == pytest.approx(chance_level(protocol), abs=1e-15)


def test_pixels_become_centred_unit_vectors():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    pixels[3] = 77
    embedding = pixel_baseline(pixels)
    assert embedding.shape == (5, 36)
    assert embedding.dtype == np.float32
    for picture, got in zip(pixels[:3], embedding, strict=False):
        centred = picture.astype(np.float64).reshape(-1) - picture.mean()
        np.testing.assert_allclose(got, centred / np.linalg.norm(centred), atol=1e-6)
    np.testing.assert_allclose(embedding[3], 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(embedding[3] @ embedding[[0, 1, 2, 4]].T, 0, atol=1e-6)
    brighter = (pixels // 2 + 20).astype(np.uint8)
    assert (pixel_baseline(brighter)[0] @ embedding[0]) > 0.99


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 3, 3), np.float32), np.zeros((2, 9), np.uint8), np.zeros((0, 3, 3), np.uint8)]
)
def test_pixel_baseline_refuses(pixels):
    with pytest.raises(RetrievalError, match="the pixel baseline needs pictures; got"):
        pixel_baseline(pixels)


def test_pixels_of_real_characters_score_above_chance(hetero_data):
    with np.load(hetero_data / "omniglot28.npz") as file:
        chosen = file["test"][:800]
        pixels, labels = file["images"][chosen], file["labels"][chosen]
    embedding, protocol = pixel_baseline(pixels), leave_one_out(labels)
    assert score(embedding, embedding, protocol).mean["r_at_1"] > 10 * chance_level(protocol)

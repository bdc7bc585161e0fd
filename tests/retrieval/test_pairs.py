"""TAR@FAR over pair lists: by hand, against loops with many ties, controls, refusals; the matrix of models."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hetero.data.templates import TemplatePairs
from hetero.errors import RetrievalError
from hetero.retrieval import pairs as pairs_module
from hetero.retrieval.histogram import STEPS
from hetero.retrieval.pairs import pair_similarities, require_enough, verify
from hetero.retrieval.verification_matrix import verification_matrix


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def tied(rng, count, dim=4):
    """Unit vectors of few different similarities: two components of ±1/√2."""
    vectors = np.zeros((count, dim), np.float32)
    for row in vectors:
        row[rng.choice(dim, 2, replace=False)] = rng.choice([-1, 1], 2)
    return vectors * np.float32(math.sqrt(0.5))


def all_pairs(subjects_probe, subjects_enrolled):
    probe, enroll = np.indices((len(subjects_probe), len(subjects_enrolled))).reshape(2, -1)
    return TemplatePairs(probe, enroll, subjects_probe[probe] == subjects_enrolled[enroll])


def angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_six_templates_by_hand():
    """Enrolled at 0° (subject a) and 90° (b); probes a at 10° and 60°, b at 80° and 20°.

    Genuine similarities: cos 10, 60, 10, 70 degrees; impostors: cos 80, 30, 80, 20 degrees. Each is repeated tenfold
    so that the rates are supported.
    """
    probes, enrolled = angles(10, 60, 80, 20), angles(0, 90)
    once = all_pairs(np.array([0, 0, 1, 1]), np.array([0, 1]))
    tenfold = TemplatePairs(*(np.tile(column, 10) for column in (once.probe, once.enroll, once.same)))
    found = verify(probes, enrolled, tenfold, (0.25, 0.5, 0.75))
    # FAR 0.25 lets only cos 20° in, so the threshold is just above cos 30°; 0.5 lets both in, just above cos 80°
    for point, angle, tar, far in zip(found.points, (30, 80, 80), (0.5, 1.0, 1.0), (0.25, 0.5, 0.5), strict=True):
        assert 0 < point.similarity - math.cos(math.radians(angle)) <= 1.1 / STEPS
        assert (point.true_accept_rate.value, point.false_accept_rate.value) == (tar, far)
    assert found.to_json()["genuine_pairs"] == found.to_json()["impostor_pairs"] == 40
    assert json.loads(json.dumps(found.to_json()))["points"][0]["true_accept_rate"]["value"] == 0.5


def test_a_pair_at_the_threshold_is_accepted():
    """Impostors one step below 0.5, a genuine pair at exactly 0.5: the threshold is 0.5 and takes it in."""
    first = np.array([0.5, 0.5 - 1 / STEPS])
    enrolled = np.stack([first, np.sqrt(1 - first**2)], axis=1)
    pairs = TemplatePairs(np.zeros(21, int), np.array([0] + [1] * 20), np.array([True] + [False] * 20))
    (point,) = verify(np.array([[1.0, 0.0]]), enrolled, pairs, (0.5,)).points
    assert point.similarity == 0.5
    assert (point.true_accept_rate.value, point.false_accept_rate.value) == (1, 0)


def naive_tar(probes, enrolled, pairs, far):
    """Sort nothing, bin nothing: try every step around every impostor score as the threshold."""
    scores = [
        float(np.dot(probes[p].astype(float), enrolled[e].astype(float)))
        for p, e in zip(pairs.probe, pairs.enroll, strict=True)
    ]
    impostors = [s for s, same in zip(scores, pairs.same, strict=True) if not same]
    genuine = [s for s, same in zip(scores, pairs.same, strict=True) if same]
    steps = sorted({math.floor(s * STEPS) + offset for s in impostors for offset in (-1, 0, 1, 2)})
    least = next(k for k in steps if sum(s >= k / STEPS for s in impostors) <= math.floor(far * len(impostors)))
    return least / STEPS, sum(s >= least / STEPS for s in genuine) / len(genuine)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("many_ties", [True, False])
def test_rates_equal_loops_over_the_pairs(seed, many_ties):
    rng = np.random.default_rng(seed)
    make = tied if many_ties else unit
    probes, enrolled = make(rng, 12, 4), make(rng, 9, 4)
    pairs = all_pairs(rng.integers(0, 4, 12), rng.integers(0, 4, 9))
    chosen = rng.permutation(len(pairs))[:100]
    pairs = TemplatePairs(pairs.probe[chosen], pairs.enroll[chosen], pairs.same[chosen])
    fars = (0.5, 0.2)
    for far, point in zip(fars, verify(probes, enrolled, pairs, fars).points, strict=True):
        threshold, tar = naive_tar(probes, enrolled, pairs, far)
        assert point.true_accept_rate.value == pytest.approx(tar, abs=1e-12)
        assert point.similarity <= threshold  # the naive search tries only steps near scores
        scores = pair_similarities(probes, enrolled, pairs)[~pairs.same]
        assert (scores >= point.similarity).mean() == point.false_accept_rate.value <= far
        assert (scores >= point.similarity - 1 / STEPS).mean() > far


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    probes, enrolled, pairs = unit(rng, 20, 8), unit(rng, 15, 8), all_pairs(np.arange(20), np.arange(15))
    whole = pair_similarities(probes, enrolled, pairs)
    monkeypatch.setattr(pairs_module, "_BLOCK_BYTES", 7 * 64)
    np.testing.assert_array_equal(pair_similarities(probes, enrolled, pairs), whole)
    np.testing.assert_allclose(whole, (probes.astype(float) @ enrolled.astype(float).T).reshape(-1), atol=1e-7)


def test_random_embeddings_accept_genuine_pairs_like_impostors():
    rng = np.random.default_rng(2)
    pairs = all_pairs(np.arange(300) % 30, np.arange(300) % 30)
    for point in verify(unit(rng, 300, 16), unit(rng, 300, 16), pairs, (0.1, 0.01)).points:
        expected = point.far * 3000
        assert abs(point.true_accept_rate.value * 3000 - expected) < 6 * math.sqrt(expected)
        assert point.false_accept_rate.value == pytest.approx(point.far, rel=1e-3)


def test_a_constant_embedding_accepts_nothing():
    constant = np.full((20, 4), 0.5, np.float32)
    found = verify(constant, constant, all_pairs(np.arange(20) % 4, np.arange(20) % 4), (0.1,))
    assert found.points[0].similarity == 1 + 1 / STEPS
    assert (found.points[0].true_accept_rate.value, found.points[0].false_accept_rate.value) == (0, 0)


def test_intervals_resample_probes_or_clusters_of_them():
    """Of 100 probes, each with one genuine pair, every tenth fails; clustered, these ten are one of ten clusters."""
    probes, enrolled = np.tile(angles(*[10] * 9, 80), (10, 1)), angles(0, 70)
    pairs = all_pairs(np.zeros(100, int), np.array([0, 1]))
    narrow = verify(probes, enrolled, pairs, (0.2,))
    assert (narrow.units, narrow.points[0].true_accept_rate.value) == (100, 0.9)
    assert narrow.points[0].true_accept_rate.low == pytest.approx(0.84, abs=0.01)  # 0.9 − 1.96 · 0.03
    wide = verify(probes, enrolled, pairs, (0.2,), clusters=np.arange(100) % 10)
    assert (wide.units, wide.points[0].true_accept_rate.value) == (10, 0.9)
    assert wide.points[0].true_accept_rate.low == pytest.approx(0.7)  # 0.9 − 1.96 · 0.095, in steps of a tenth


def test_what_cannot_be_measured_is_refused():
    rng = np.random.default_rng(3)
    vectors = unit(rng, 10, 4)
    pairs = all_pairs(np.arange(10) % 2, np.arange(10) % 2)
    with pytest.raises(
        RetrievalError, match=r"too few impostor pairs .* rate of 0\.1; got 50 pairs of .*; expected at least 100 "
    ):
        verify(vectors, vectors, pairs, (0.1,))
    with pytest.raises(RetrievalError, match="got 50 pairs"):
        require_enough(pairs, (0.1,))
    require_enough(pairs, (0.2,))
    with pytest.raises(RetrievalError, match="a false accept rate lies between 0 and 1"):
        verify(vectors, vectors, pairs, (1.0,))
    with pytest.raises(RetrievalError, match="no genuine pair"):
        verify(vectors, vectors, all_pairs(np.arange(10), np.arange(10) + 10), (0.2,))
    with pytest.raises(RetrievalError, match=r"probe template that has no embedding; got row 9; expected 0\.\.8"):
        verify(vectors[:9], vectors, pairs, (0.2,))
    with pytest.raises(RetrievalError, match=r"enrolled template that has no embedding"):
        verify(vectors, vectors[:9], pairs, (0.2,))
    with pytest.raises(RetrievalError, match="probe embeddings have another dimension"):
        verify(unit(rng, 10, 5), vectors, pairs, (0.2,))
    with pytest.raises(RetrievalError, match=r"clusters do not fit the probes; got \[9\]; expected \[10\]"):
        verify(vectors, vectors, pairs, (0.2,), clusters=np.zeros(9))


def three_models(seed=4):
    rng = np.random.default_rng(seed)
    subjects = np.arange(60) % 12
    base = unit(rng, 12, 8)[subjects]
    noisy = {"large": 0.3, "small": 0.7, "foreign": 0.3}
    models = {name: base + scale * unit(rng, 60, 8) for name, scale in noisy.items()}
    models["foreign"] = models["foreign"] @ np.linalg.qr(rng.standard_normal((8, 8)))[0]
    models = {n: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for n, v in models.items()}
    return models, all_pairs(subjects[:30], subjects), subjects


def test_each_cell_of_the_matrix_is_its_own_measurement():
    models, pairs, subjects = three_models()
    matrix = verification_matrix(models, pairs, (0.05, 0.01), clusters=subjects)
    assert list(matrix.cells) == [(a, b) for a in models for b in models]
    for (query, gallery), roc in matrix.cells.items():
        assert roc.to_json() == verify(models[query], models[gallery], pairs, (0.05, 0.01), clusters=subjects).to_json()
        for point in roc.points:
            assert (
                matrix.tar(query, gallery, point.far) == naive_tar(models[query], models[gallery], pairs, point.far)[1]
            )
    # not symmetric, each with its own threshold, and a foreign space is no better than chance
    assert matrix.cells["small", "large"].to_json() != matrix.cells["large", "small"].to_json()
    assert len({roc.points[0].similarity for roc in matrix.cells.values()}) == 9
    assert matrix.tar("large", "large", 0.05) > matrix.tar("small", "large", 0.05) > matrix.tar("small", "small", 0.05)
    assert matrix.tar("small", "foreign", 0.05) < 0.3
    assert matrix.tar("foreign", "foreign", 0.05) > 0.9


def test_the_matrix_as_json_and_what_it_refuses():
    models, pairs, _ = three_models()
    matrix = verification_matrix(models, pairs, (0.05,))
    stored = json.loads(json.dumps(matrix.to_json()))
    assert stored["models"] == ["large", "small", "foreign"]
    assert [(c["query_model"], c["gallery_model"]) for c in stored["cells"]] == list(matrix.cells)
    cell = stored["cells"][1]
    assert cell["points"][0]["true_accept_rate"]["value"] == matrix.tar("large", "small", 0.05)
    assert (cell["genuine_pairs"], cell["impostor_pairs"], cell["units"]) == (150, 1650, 30)
    with pytest.raises(
        RetrievalError, match=r"was not measured; got .*'large', .*'huge', FAR 0\.05; expected models large"
    ):
        matrix.tar("large", "huge", 0.05)
    with pytest.raises(RetrievalError, match=r"FAR 0\.01; .*rates 0\.05"):
        matrix.tar("large", "small", 0.01)
    with pytest.raises(RetrievalError, match="too few impostor pairs"):
        verification_matrix(models, pairs, (0.001,))
    with pytest.raises(RetrievalError, match=r"one space; got large \[60, 8\], small \[60, 7\]"):
        verification_matrix({"large": models["large"], "small": models["small"][:, :7]}, pairs)
    with pytest.raises(RetrievalError, match="at least one model"):
        verification_matrix({}, pairs)

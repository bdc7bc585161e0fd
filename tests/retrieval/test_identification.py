"""1:N search: by hand, against loops over all candidates with many ties, controls, galleries averaged, refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hetero.errors import RetrievalError
from hetero.retrieval import metrics
from hetero.retrieval.histogram import STEPS
from hetero.retrieval.identification import Enrolled, identify, search


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def tied(rng, count, dim=4):
    """Unit vectors of few different similarities: two components of ±1/√2."""
    vectors = np.zeros((count, dim), np.float32)
    for row in vectors:
        row[rng.choice(dim, 2, replace=False)] = rng.choice([-1, 1], 2)
    return vectors * np.float32(math.sqrt(0.5))


def angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


A, B, C, X, Y = range(5)
# a at 5° and b at 42° find their mates first; a at 25° is nearer to b, c at 60° too. x and y are not enrolled.
PROBES = angles(5, 42, 25, 60, *[10] * 10, *[130] * 10)
SUBJECTS = np.array([A, B, A, C] + [X] * 10 + [Y] * 10)


def test_one_gallery_of_three_by_hand():
    gallery = {"all": Enrolled(angles(0, 40, 90), np.array([A, B, C]))}
    found = identify(PROBES, SUBJECTS, gallery, ranks=(1, 2), fpirs=(0.5,))
    assert (dict(found.mated), dict(found.non_mated)) == ({"all": 4}, {"all": 20})
    assert {rank: rate.value for rank, rate in found.rank_rates.items()} == {1: 0.5, 2: 1.0}
    assert found.cmc(4).tolist() == [0.5, 1, 1, 1]
    # y's best candidate is c, 40° away, and must not be raised; x's, 10° away, is the half that may be
    (point,) = found.open_set
    assert 0 < point.similarities["all"] - math.cos(math.radians(40)) <= 1.1 / STEPS
    assert (point.true_positive_rate.value, point.false_positive_rate.value) == (0.5, 0.5)
    within_two = identify(PROBES, SUBJECTS, gallery, fpirs=(0.5,), max_rank=2).open_set[0]
    assert within_two.true_positive_rate.value == 1.0  # mates 25° and 30° away, above the threshold, at rank 2
    # a threshold above cos 25° and below cos 10° loses them whatever the rank
    stricter = angles(*[10] * 10, *[115] * 10)
    probes = np.concatenate((PROBES[:4], stricter))
    assert identify(probes, SUBJECTS, gallery, fpirs=(0.5,), max_rank=2).open_set[0].true_positive_rate.value == 0.5


def test_two_galleries_are_searched_apart_and_averaged():
    galleries = {"G1": Enrolled(angles(0, 40), np.array([A, B])), "G2": Enrolled(angles(90), np.array([C]))}
    found = identify(PROBES, SUBJECTS, galleries, ranks=(1, 2), fpirs=(0.5,))
    # G1: a 5°, b 42°, a 25° are mated; at rank 1 the last is lost. G2: c 60° is mated and alone, so it is first
    assert (dict(found.mated), dict(found.non_mated)) == ({"G1": 3, "G2": 1}, {"G1": 21, "G2": 23})
    assert found.rank_rates[1].value == pytest.approx((2 / 3 + 1) / 2)
    assert found.rank_rates[2].value == 1.0
    # G1 may raise 10 of its 21 non-mated probes: the x, and not c, 20° from b. G2 may raise 11 of 23: the y and b,
    # 48° from c, and not a at 25°, 65° from c
    (point,) = found.open_set
    for name, angle in (("G1", 20), ("G2", 65)):
        assert 0 < point.similarities[name] - math.cos(math.radians(angle)) <= 1.1 / STEPS
    assert point.true_positive_rate.value == pytest.approx((2 / 3 + 1) / 2)
    assert point.false_positive_rate.value == pytest.approx((10 / 21 + 11 / 23) / 2)
    apart = [identify(PROBES, SUBJECTS, {name: one}, fpirs=(0.5,)) for name, one in galleries.items()]
    mean = np.mean([one.open_set[0].true_positive_rate.value for one in apart])
    assert point.true_positive_rate.value == pytest.approx(mean)
    np.testing.assert_allclose(found.cmc(3), np.mean([one.cmc(3) for one in apart], axis=0))


def test_a_candidate_at_the_threshold_counts():
    """One enrolled template; ten strangers and the mate at exactly 0.5 from it, ten strangers one step below."""
    first = np.array([0.5] * 11 + [0.5 - 1 / STEPS] * 10)
    probes = np.stack([first, np.sqrt(1 - first**2)], axis=1)
    subjects = np.array([A] + [X] * 20)
    found = identify(probes, subjects, {"all": Enrolled(np.array([[1.0, 0.0]]), np.array([A]))}, fpirs=(0.5,))
    (point,) = found.open_set
    assert point.similarities == {"all": 0.5}
    assert (point.true_positive_rate.value, point.false_positive_rate.value) == (1, 0.5)


def naive(probes, subjects, gallery, max_rank, fpir):
    """Closed-set rates at max_rank, TPIR and FPIR, from the definition with loops; ties by counting their orders."""
    rank_chance, mate_score, tops = [], [], []
    for probe, subject in zip(probes.astype(float), subjects, strict=True):
        scores = [
            (float(np.dot(probe, row)), other == subject)
            for row, other in zip(gallery.vectors.astype(float), gallery.subjects, strict=True)
        ]
        mates = [score for score, mate in scores if mate]
        if not mates:
            tops.append(max(score for score, _ in scores))
            continue
        best = max(mates)
        ahead = sum(score > best + 1e-9 for score, _ in scores)
        size = sum(abs(score - best) < 1e-9 for score, _ in scores)
        right = sum(abs(score - best) < 1e-9 for score in mates)
        drawn = max(0, min(size, max_rank - ahead))
        rank_chance.append(1 - math.comb(size - right, drawn) / math.comb(size, drawn))
        mate_score.append(best)
    steps = sorted({math.floor(top * STEPS) + offset for top in tops for offset in (-1, 0, 1, 2)})
    threshold = next(k for k in steps if sum(top >= k / STEPS for top in tops) <= math.floor(fpir * len(tops))) / STEPS
    found = [chance * (score >= threshold) for chance, score in zip(rank_chance, mate_score, strict=True)]
    return np.mean(rank_chance), np.mean(found), np.mean([top >= threshold for top in tops])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("many_ties", [True, False])
def test_rates_equal_loops_over_all_candidates(seed, many_ties):
    rng = np.random.default_rng(seed)
    make = tied if many_ties else unit
    gallery = Enrolled(make(rng, 15, 4), rng.integers(0, 6, 15))  # subjects with several templates
    probes, subjects = make(rng, 120, 4), rng.integers(0, 12, 120)
    for max_rank in (1, 3):
        found = identify(probes, subjects, {"all": gallery}, ranks=(max_rank,), fpirs=(0.3,), max_rank=max_rank)
        expected = naive(probes, subjects, gallery, max_rank, 0.3)
        (point,) = found.open_set
        got = (found.rank_rates[max_rank].value, point.true_positive_rate.value, point.false_positive_rate.value)
        assert got == pytest.approx(expected, abs=1e-12)
        assert found.cmc(max_rank)[-1] == pytest.approx(expected[0], abs=1e-12)


def test_random_embeddings_find_mates_by_chance():
    rng = np.random.default_rng(0)
    gallery = {"all": Enrolled(unit(rng, 40, 16), np.arange(40))}
    probes, subjects = unit(rng, 4000, 16), np.arange(4000) % 80
    found = identify(probes, subjects, gallery, fpirs=(0.2,), max_rank=40)
    for rank, rate in found.rank_rates.items():
        assert abs(rate.value - rank / 40) < 4 * math.sqrt(rank / 40 / 2000)
    (point,) = found.open_set
    assert point.false_positive_rate.value == pytest.approx(0.2, abs=1e-3)
    # a mate is one candidate of forty: it is above the threshold where 0.2/40 of all candidates are
    assert point.true_positive_rate.value < 5 * 0.2 / 40
    first = identify(probes, subjects, gallery, fpirs=(0.2,)).open_set[0]
    assert first.true_positive_rate.value <= point.true_positive_rate.value


def test_a_constant_embedding_ranks_by_chance_and_raises_nobody():
    constant = np.full((60, 4), 0.5, np.float32)
    gallery = {"all": Enrolled(constant[:8], np.arange(8))}
    found = identify(constant, np.arange(60) % 16, gallery, fpirs=(0.4,), max_rank=8)
    np.testing.assert_allclose(found.cmc(10), [*np.arange(1, 9) / 8, 1, 1])
    (point,) = found.open_set
    assert point.similarities["all"] == 1 + 1 / STEPS
    assert (point.true_positive_rate.value, point.false_positive_rate.value) == (0, 0)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    gallery, probes, subjects = Enrolled(tied(rng, 20), np.arange(20) % 7), tied(rng, 50), np.arange(50) % 14
    whole = search(probes, subjects, gallery)
    monkeypatch.setattr(metrics, "_BLOCK_BYTES", 8 * 20 * 3)
    parts = search(probes, subjects, gallery)
    for name in ("mated", "best", "mate", "first"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert np.isneginf(whole.mate[~whole.mated]).all()
    assert (whole.first[~whole.mated] == [0, 1, 0]).all()


def test_intervals_resample_probes_or_their_subjects():
    """Ten subjects of ten probes: one subject is never found at rank 1."""
    probes = np.tile(angles(*np.arange(10) * 30), (10, 1))
    subjects = np.arange(100) % 10
    enrolled = {"all": Enrolled(angles(*np.arange(9) * 30, 285), np.arange(10))}
    probes[subjects == 9] = angles(0)  # where subject 0 is enrolled
    by_probe = identify(probes, subjects, enrolled, fpirs=()).rank_rates[1]
    by_subject = identify(probes, subjects, enrolled, fpirs=(), clusters=subjects).rank_rates[1]
    assert by_probe.value == by_subject.value == 0.9
    assert by_probe.low == pytest.approx(0.84, abs=0.01)
    assert by_subject.low == pytest.approx(0.7)


def test_results_survive_json():
    gallery = {"all": Enrolled(angles(0, 40, 90), np.array([A, B, C]))}
    found = identify(PROBES, SUBJECTS, gallery, ranks=(1,), fpirs=(0.5,))
    stored = json.loads(json.dumps(found.to_json()))
    assert stored["rank_rates"]["1"]["value"] == 0.5
    assert stored["open_set"][0]["similarities"] == found.open_set[0].similarities
    assert (stored["max_rank"], stored["mated"], stored["non_mated"]) == (1, {"all": 4}, {"all": 20})


def test_what_cannot_be_measured_is_refused():
    gallery = {"G1": Enrolled(angles(0, 40, 90), np.array([A, B, C]))}
    with pytest.raises(
        RetrievalError,
        match=r"too few non-mated probes to set a threshold at a false positive identification rate of 0\.4; got 20 "
        r"probes without a mate in gallery 'G1'; expected at least 25 \(10 / FPIR\).*: 0\.5 or more",
    ):
        identify(PROBES, SUBJECTS, gallery, fpirs=(0.5, 0.4))
    with pytest.raises(RetrievalError, match=r"a false positive identification rate lies between 0 and 1; got 0"):
        identify(PROBES, SUBJECTS, gallery, fpirs=(0.0,))
    with pytest.raises(RetrievalError, match=r"no probe has a mate in gallery 'G1'; got 20 probes, 3 enrolled"):
        identify(PROBES[4:], SUBJECTS[4:], gallery)
    with pytest.raises(RetrievalError, match="ranks from 1 on"):
        identify(PROBES, SUBJECTS, gallery, ranks=(0,))
    with pytest.raises(RetrievalError, match="needs a gallery"):
        identify(PROBES, SUBJECTS, {})
    with pytest.raises(RetrievalError, match="query embeddings do not fit"):
        identify(PROBES[:-1], SUBJECTS, gallery, fpirs=(0.5,))
    with pytest.raises(RetrievalError, match="gallery embeddings do not fit"):
        identify(PROBES, SUBJECTS, {"G1": Enrolled(angles(0, 40), np.array([A, B, C]))}, fpirs=(0.5,))

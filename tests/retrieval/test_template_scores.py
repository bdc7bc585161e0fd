"""Both protocols over templates: what is compared, which rates that supports, and the rule, recomputed slowly."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.data.templates import TemplatePairs, TemplateSet
from hetero.errors import DataError, RetrievalError
from hetero.report.templates import template_checks
from hetero.retrieval.comparisons import Comparisons, choose_rates, make_comparisons
from hetero.retrieval.histogram import least_rate, trials_needed
from hetero.retrieval.template_scores import score_galleries, score_pairs

SUBJECTS, TEMPLATES = 20, 240  # templates 0 … 19 are enrolled, the even in G1; 20 … are 11 probes of each subject
SUBJECT = np.arange(TEMPLATES) % SUBJECTS


@pytest.fixture(scope="module")
def comparisons() -> Comparisons:
    probe, enroll = np.indices((TEMPLATES, SUBJECTS)).reshape(2, -1)[:, SUBJECTS**2 :]
    return make_comparisons(
        TemplateSet(
            np.arange(TEMPLATES), SUBJECT, np.arange(TEMPLATES), np.arange(TEMPLATES), np.zeros(TEMPLATES, int)
        ),
        TemplatePairs(probe, enroll, SUBJECT[probe] == enroll),
        {"G1": np.arange(0, SUBJECTS, 2), "G2": np.arange(1, SUBJECTS, 2)},
        np.arange(SUBJECTS, TEMPLATES),
    )


@pytest.fixture(scope="module")
def models() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def embedded(noise: float) -> np.ndarray:
        rows = np.eye(SUBJECTS)[SUBJECT] + noise * rng.standard_normal((TEMPLATES, SUBJECTS))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return {"large": embedded(0.1), "small": embedded(0.3), "stranger": np.roll(embedded(0.1), 1, axis=1)}


def in_space(models: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: models[name] for name in ("large", "small")}


def test_the_rule_of_verification_is_the_difference_of_the_cells(comparisons, models):
    said: list[str] = []
    found = score_pairs(in_space(models), {"stranger": models["stranger"]}, comparisons, (0.1, 0.01), say=said.append)
    assert list(found.cells) == [("large", "large"), ("large", "small"), ("small", "large"), ("small", "small")]
    assert len(said) == 4
    [rule] = found.rules
    assert (rule.student, rule.protocol, rule.metric, rule.satisfied) == ("small", "1:1", "TAR@FAR=0.01", True)
    rates = {cell: points[1].true_accept_rate.value for cell, points in found.cells.items()}
    assert rule.difference.value == pytest.approx(rates["small", "large"] - rates["small", "small"])
    assert rule.difference.value > 0.1
    assert rule.difference.low < rule.difference.value < rule.difference.high
    pairs = comparisons.pairs
    for (query, enrolled), points in found.cells.items():  # each cell with a threshold of its own
        similarities = (models[query].astype(float) @ models[enrolled].astype(float).T)[pairs.probe, pairs.enroll]
        impostors = np.sort(similarities[~pairs.same])[::-1]
        assert impostors[41] < points[1].similarity + 2e-6 <= impostors[40] + 1e-5  # 41 of 4180 are at most a 100th
        assert points[1].true_accept_rate.value == np.mean(similarities[pairs.same] >= points[1].similarity)
    assert found.controls["stranger"][0].true_accept_rate.value < 0.1


def test_the_rule_of_search_is_the_difference_of_the_cells(comparisons, models):
    strangers = {"stranger": models["stranger"]}
    found = score_galleries(in_space(models), strangers, comparisons, (1, 5), (0.2, 0.1))
    assert list(found.cells) == [("large", "large"), ("small", "large"), ("small", "small")]
    large, own = found.cells["small", "large"], found.cells["small", "small"]
    [rule] = found.rules
    assert (rule.metric, rule.satisfied) == ("TPIR@FPIR=0.1", True)
    gain = large.open_set[1].true_positive_rate.value - own.open_set[1].true_positive_rate.value
    assert rule.difference.value == pytest.approx(gain)
    assert gain > 0.05
    assert found.chance == pytest.approx(1 / 10)
    assert found.controls["stranger"].rank_rates[1].value < 2 / 10

    closed = score_galleries(in_space(models), {}, comparisons, (1,), ())
    large, own = closed.cells["small", "large"], closed.cells["small", "small"]
    [rule] = closed.rules
    assert rule.metric == "rank 1"
    assert rule.difference.value == pytest.approx(large.rank_rates[1].value - own.rank_rates[1].value)


def over_subjects(columns: list[tuple[np.ndarray, np.ndarray]], owner: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 % of the columns' mean ratio (hits over trials) in 2000 draws of whole subjects."""
    drawn = np.random.default_rng(0).integers(0, SUBJECTS, size=(2000, SUBJECTS))
    sums = [[[part[owner == subject].sum() for subject in range(SUBJECTS)] for part in column] for column in columns]
    ratios = [
        np.mean([sum(hits[i] for i in row) / sum(trials[i] for i in row) for hits, trials in sums]) for row in drawn
    ]
    return tuple(np.percentile(ratios, [2.5, 97.5]))


def test_intervals_draw_whole_subjects(comparisons, models):
    pairs = comparisons.pairs
    found = score_pairs(in_space(models), {}, comparisons, (0.01,))
    probe, enroll = pairs.probe[pairs.same], pairs.enroll[pairs.same]
    accepted = {}
    for cell in (("small", "large"), ("small", "small")):
        [point] = found.cells[cell]
        similarities = np.einsum("pd,pd->p", models[cell[0]][probe].astype(float), models[cell[1]][enroll])
        accepted[cell] = (similarities >= point.similarity).astype(float)
        expected = over_subjects([(accepted[cell], np.ones(len(probe)))], SUBJECT[probe])
        assert (point.true_accept_rate.low, point.true_accept_rate.high) == pytest.approx(expected)
    gained = accepted["small", "large"] - accepted["small", "small"]
    [rule] = found.rules
    expected = over_subjects([(gained, np.ones(len(probe)))], SUBJECT[probe])
    assert (rule.difference.low, rule.difference.high) == pytest.approx(expected)

    searched = score_galleries(in_space(models), {}, comparisons, (1,), (0.1,))
    owner, columns = SUBJECT[comparisons.probes], {}
    for cell in (("small", "large"), ("small", "small")):
        [point] = searched.cells[cell].open_set
        columns[cell] = []
        for gallery, listed in comparisons.galleries.items():
            rows = models[cell[0]][comparisons.probes].astype(float) @ models[cell[1]][listed].astype(float).T
            mated = np.isin(owner, SUBJECT[listed])
            right = SUBJECT[listed][rows.argmax(1)] == owner
            hit = mated & right & (rows.max(1) >= point.similarities[gallery])
            columns[cell].append((hit.astype(float), mated.astype(float)))
        rate = point.true_positive_rate
        assert (rate.low, rate.high) == pytest.approx(over_subjects(columns[cell], owner))
    gains = [(a - b, mated) for (a, mated), (b, _) in zip(*columns.values(), strict=True)]
    [rule] = searched.rules
    assert (rule.difference.low, rule.difference.high) == pytest.approx(over_subjects(gains, owner))


def test_the_checks_pass_where_the_rule_holds_and_fail_where_it_does_not(comparisons, models):
    def checks(query: dict[str, np.ndarray], control: np.ndarray):
        pairs = score_pairs(query, {"c": control}, comparisons, (0.01,))
        search = score_galleries(query, {"c": control}, comparisons, (1,), (0.1,))
        return [check.passed for check in template_checks(pairs, search, times_chance=3.0)]

    assert checks(in_space(models), models["stranger"]) == [True] * 4
    assert checks({"large": models["large"], "same": models["large"]}, models["stranger"])[:2] == [False, False]
    assert checks(in_space(models), models["small"])[2:] == [False, False]  # a control that is in the space after all
    compatible = score_pairs({"large": models["large"]}, {"c": models["small"]}, comparisons, (0.01,))
    assert [check.passed for check in template_checks(compatible, None, times_chance=3.0)] == [False]
    assert template_checks(compatible, None, times_chance=None) == ()


def test_templates_without_an_image_are_in_no_comparison():
    templates = TemplateSet(
        ids=np.array([4, 5, 6, 7]), subjects=np.array([0, 1, 0, 1]),
        images=np.arange(3), rows=np.array([0, 2, 3]), media=np.zeros(3, int),
    )  # fmt: skip
    pairs = TemplatePairs(np.array([2, 3, 3]), np.array([0, 0, 1]), np.array([True, False, True]))
    found = make_comparisons(templates, pairs, {"G1": np.array([0, 1])}, np.array([2, 3]))
    assert found.left_out.tolist() == [5]
    assert found.subjects.tolist() == [0, 0, 1]
    assert found.pairs is not None
    assert (found.pairs.probe.tolist(), found.pairs.enroll.tolist()) == ([1, 2], [0, 0])
    assert found.galleries["G1"].tolist() == [0]
    assert found.probes is not None
    assert found.probes.tolist() == [1, 2]
    assert found.mated("G1").tolist() == [True, False]
    with pytest.raises(DataError, match=r"no template of gallery G2 has an image; got 1 templates"):
        make_comparisons(templates, pairs, {"G2": np.array([1])}, np.array([2, 3]))


def test_rates_without_support_are_refused_or_left_out_by_name(comparisons):
    """220 probes: 110 non-mated in each gallery, 220 · 19 = 4180 impostor pairs."""
    assert comparisons.impostor_pairs == 4180
    assert choose_rates(comparisons, (0.1, 0.01, 0.1), (0.1,), only_supported=False) == ((0.1, 0.01), (0.1,), ())
    with pytest.raises(RetrievalError, match=r"rate of 0\.001; got 4180 .*at least 10000.*: 0\.0024 or more$"):
        choose_rates(comparisons, (0.01, 0.001), (0.1,), only_supported=False)
    with pytest.raises(RetrievalError, match=r"rate of 0\.05; got 110 .*'G1'; .*: 0\.091 or more$"):
        choose_rates(comparisons, (0.01,), (0.05,), only_supported=False)
    fars, fpirs, left_out = choose_rates(comparisons, (0.01, 0.001), (0.05,), only_supported=True)
    assert (fars, fpirs) == ((0.01,), ())
    assert [tuple(rate.to_json().values()) for rate in left_out] == [
        ("FPIR", 0.05, 110, 200, 0.091),
        ("FAR", 0.001, 4180, 10000, 0.0024),
    ]
    with pytest.raises(RetrievalError, match=r"rate of 0\.001; .*0\.0024 or more"):  # no FAR would be left
        choose_rates(comparisons, (1e-4, 1e-3), (), only_supported=True)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(RetrievalError, match="lies between 0 and 1"):
            choose_rates(comparisons, (rate,), (), only_supported=True)


def test_the_least_rate_is_supported_and_two_digits_less_is_not():
    assert (least_rate(0), least_rate(10), least_rate(11)) == (None, None, 0.91)
    for trials in [*range(11, 3000), 10**4, 10**7, 15_638_932]:
        least = least_rate(trials)
        assert trials_needed(least) <= trials
        step = 10.0 ** (np.floor(np.log10(least)) - 1)
        assert trials_needed(least - step * 1.0001) > trials

"""The named evaluations: that they fit the readers and the metrics, and R@k at any rank against every order of ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hetero.data.dataset import ROLE_GALLERY, ROLE_QUERY
from hetero.data.open import parse_data_config
from hetero.errors import ConfigError, RetrievalError
from hetero.retrieval.bootstrap import interval
from hetero.retrieval.metrics import METRICS, score
from hetero.retrieval.presets import PRESETS, TEMPLATE_PRESETS, find_preset, find_template_preset, recalls
from hetero.retrieval.protocol import leave_one_out, query_gallery


def test_each_preset_is_what_its_paper_reports():
    ranks = {name: preset.ranks for name, preset in PRESETS.items()}
    assert ranks == {
        "omniglot": (1, 5, 10),
        "cub200": (1, 2, 4, 8),
        "sop": (1, 10, 100, 1000),
        "inshop": (1, 10, 20, 30, 40, 50),
        "deepfashion2-c2s": (1, 5, 10, 15, 20),
    }
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.split == "test"
        assert set(preset.metrics) <= set(METRICS)
        assert parse_data_config({"format": preset.data_format, "path": "x"}).format == preset.data_format


def test_a_preset_that_is_not_there_names_the_nearest():
    assert find_preset("sop") is PRESETS["sop"]
    with pytest.raises(ConfigError, match=r"no evaluation preset 'deepfashion2'; .*nearest: deepfashion2-c2s.*fix"):
        find_preset("deepfashion2")


def test_the_presets_of_templates_have_the_rates_of_ijbc_and_no_config_can_name_them():
    rates = {
        name: (preset.protocol, preset.fars, preset.ranks, preset.fpirs) for name, preset in TEMPLATE_PRESETS.items()
    }
    assert rates == {
        "ijbc-1:1": ("1:1", (0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6), (), ()),
        "ijbc-1:N": ("1:N", (), (1, 5, 10), (0.1, 0.01)),
    }
    for name, preset in TEMPLATE_PRESETS.items():
        assert find_template_preset(name) is preset
        assert "ICB 2018" in preset.source
        with pytest.raises(ConfigError, match=f"fix: .*hetero templates RUN PATH --protocol {preset.protocol}"):
            find_preset(name)
    with pytest.raises(ConfigError, match=r"no evaluation preset 'ijbc'; expected one of .*ijbc-1:1, ijbc-1:N"):
        find_preset("ijbc")
    with pytest.raises(ConfigError, match=r"no preset of templates 'sop'; expected one of ijbc-1:1, ijbc-1:N"):
        find_template_preset("sop")


def plane(*similarities):
    """Unit vectors whose cosine with the first axis is given."""
    return np.array([[s, np.sqrt(1 - s * s)] for s in similarities], np.float32)


def test_recalls_of_a_gallery_worked_by_hand():
    """One query; candidates best first: three wrong, then a tie of one right and two wrong, then a right one."""
    vectors = plane(1.0, 0.9, 0.8, 0.7, 0.5, 0.5, 0.5, 0.25)
    labels = np.array([0, 1, 1, 1, 0, 1, 1, 0])
    roles = np.array([ROLE_QUERY] + [ROLE_GALLERY] * 7)
    scores = score(vectors[:1], vectors[1:], query_gallery(labels, roles))
    assert scores.hits_at((4, 1, 3, 5, 6, 7, 1000))[0] == pytest.approx([1 / 3, 0, 0, 2 / 3, 1, 1, 1])


def test_recalls_beyond_ten_are_the_mean_over_every_order_of_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        levels = np.concatenate([[0.95 - i / 100] * 1 for i in range(10)] + [[0.5] * 5]).astype(np.float32)
        right = np.concatenate([np.zeros(10, bool), rng.random(5) < 0.4])
        right[10 + rng.integers(5)] = True
        labels = np.concatenate([[0], np.where(right, 0, 1)])
        roles = np.array([ROLE_QUERY] + [ROLE_GALLERY] * 15)
        scores = score(plane(1.0), plane(*levels), query_gallery(labels, roles))
        orders = list(itertools.permutations(right[10:]))
        for k in (10, 11, 12, 13, 14, 15):
            slow = np.mean([any([*right[:10], *order][:k]) for order in orders])
            assert scores.hits_at((k,))[0, 0] == pytest.approx(slow)


@pytest.fixture
def scores():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((60, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return score(vectors, vectors, leave_one_out(np.arange(60) // 5))


def test_recalls_agree_with_the_curve_and_come_with_intervals(scores):
    ranks = (1, 2, 5, 20, 59)
    found = recalls(scores, ranks, seed=3, resamples=200)
    assert tuple(found) == ranks
    curve = scores.cmc(59)
    for rank in ranks:
        assert found[rank].value == pytest.approx(curve[rank - 1])
        assert found[rank] == interval(scores.hits_at((rank,))[:, 0], 3, resamples=200)
    assert found[1] == interval(scores.r_at_1, 3, resamples=200)
    assert found[59].value == 1.0


@pytest.mark.parametrize("ranks", [(), (0, 1), (-1,)])
def test_ranks_count_from_one(scores, ranks):
    with pytest.raises(RetrievalError, match="R@k needs ranks from 1"):
        recalls(scores, ranks)

"""The weighted sum: each term gets what it needs of batch and gallery model, is weighed, and is refused without."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from hetero.errors import ConfigError
from hetero.losses.alignment import alignment_loss
from hetero.losses.compatibility import CompatibilityLoss
from hetero.losses.config import FREE, PLACING, LossConfig
from hetero.losses.influence import influence_loss
from hetero.losses.reference import make_reference, match_classifier

CLASSES, DIM = 5, 8
EVERYTHING = {
    "softmax": {"weight": 0.5},
    "influence": {"weight": 2.0, "prototypes": "classifier"},
    "alignment": {"weight": 10.0},
    "centroid": {"weight": 30.0},
    "contrastive": {"weight": 1.5},
    "triplet": {"weight": 0.7, "margin": 0.5},
    "contextual": {"weight": 3.0, "neighbours": 6},
    "structure": {"weight": 4.0, "parts": 4, "anchors": 3},
    "ranking": {"weight": 5.0, "neighbours": 6},
    "decoupled": {"weight": 6.0, "neighbours": 6},
    "centre": {"weight": 7.0, "alignment": 0.25},
    "logits": {"weight": 8.0},
    "relational": {"weight": 9.0},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference():
    labels = torch.arange(40) % CLASSES
    return make_reference(
        draw(40, DIM, seed=1), labels, num_classes=CLASSES, classifier=draw(CLASSES, DIM, seed=2),
        known=torch.ones(CLASSES, dtype=torch.bool), seed=3,
    )  # fmt: skip


def batch(count=10):
    labels = torch.arange(count) % CLASSES
    gallery = draw(count, DIM, seed=4)
    return gallery + draw(count, DIM, seed=5), labels, gallery


def make(tree, **changes):
    given = {"num_classes": CLASSES, "dim": DIM, "reference": reference(), "seed": 6}
    return CompatibilityLoss(LossConfig.model_validate(tree), **(given | changes))


def test_every_term_is_listed_once():
    assert set(EVERYTHING) == set(LossConfig.model_fields) == set(FREE + PLACING)


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_term_in_the_sum_is_the_term_alone_times_its_weight(name):
    query, labels, gallery = batch()
    total, terms = make(EVERYTHING)(query, labels, gallery)
    assert set(terms) == set(EVERYTHING)
    rest = {key: value for key, value in EVERYTHING.items() if key != name}
    if name == "softmax":
        rest = {key: value for key, value in rest.items() if key not in ("logits", "centre")}
        whole = make(rest | {name: EVERYTHING[name]})(query, labels, gallery)[0]
    else:
        whole = total
    without, _ = make(rest)(query, labels, gallery)
    share = EVERYTHING[name]["weight"] * float(terms[name].detach())
    assert share > 0
    assert float((whole - without).detach()) == pytest.approx(share, rel=1e-3)


def test_only_the_own_prototypes_are_trained_and_saved():
    loss = make(EVERYTHING)
    assert [name for name, _ in loss.named_parameters()] == ["prototypes"]
    assert list(loss.state_dict()) == ["prototypes"]


@pytest.mark.parametrize("name", ["softmax", "influence", "centre"])
def test_terms_of_training_classes_do_not_look_at_strangers(name):
    query, labels, gallery = batch()
    strange = labels.clone()
    strange[6:] = torch.tensor([-2, -2, -3, -3])
    tree = {name: EVERYTHING[name], "softmax": EVERYTHING["softmax"]}
    terms = make(tree)(query, strange, gallery)[1]
    alone = make(tree)(query[:6], labels[:6], gallery[:6])[1]
    assert float(terms[name].detach()) == pytest.approx(float(alone[name].detach()), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in ("softmax", "influence", "centre")])
def test_other_terms_look_at_strangers_too(name):
    query, labels, gallery = batch()
    strange = labels.clone()
    strange[6:] = torch.tensor([-2, -2, -3, -3])
    loss = make({name: EVERYTHING[name]} | ({"softmax": {}} if name == "logits" else {}))
    whole = float(loss(query, strange, gallery)[1][name].detach())
    part = float(loss(query[:6], strange[:6], gallery[:6])[1][name].detach())
    assert abs(whole - part) > 1e-4


@pytest.mark.parametrize(
    ("influence", "prototypes"),
    [({}, "centres"), ({"prototypes": "classifier"}, "classifier"), ({"prototypes": "centres"}, "centres")],
)
def test_influence_judges_by_centres_unless_the_classifier_is_asked_for(influence, prototypes):
    query, labels, gallery = batch()
    terms = make({"influence": influence})(query, labels, gallery)[1]
    expected = influence_loss(query, getattr(reference(), prototypes), labels, scale=16.0, margin=0.2)
    assert float(terms["influence"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("missing", ["skip", "centre"])
def test_influence_of_classes_that_the_gallery_model_does_not_know(missing):
    query, labels, gallery = batch()
    known = torch.tensor([True, True, False, True, True])
    full = reference()
    classifier = torch.where(known[:, None], full.classifier, 0.0)
    partial = make_reference(draw(40, DIM, seed=1), torch.arange(40) % CLASSES, num_classes=CLASSES,
                             classifier=classifier, known=known, seed=3)  # fmt: skip
    found = make({"influence": {"prototypes": "classifier", "missing": missing}}, reference=partial)(
        query, labels, gallery
    )[0]
    if missing == "centre":
        patched = torch.where(known[:, None], full.classifier, full.centres)
        expected = influence_loss(query, patched, labels, scale=16.0, margin=0.2)
    else:
        expected = influence_loss(query, classifier, labels, scale=16.0, margin=0.2, known=known)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_classifier_is_matched_to_the_students_classes_by_name():
    prototypes = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    rows, known = match_classifier(prototypes, ("bread", "milk", "tea"), ("tea", "salt", "bread"))
    assert rows.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert known.tolist() == [True, False, True]


def test_candidates_of_the_batch_need_no_bank():
    query, labels, gallery = batch()
    loss = make({"contextual": {"candidates": "batch", "neighbours": 5}}, reference=None)
    assert float(loss(query, labels, gallery)[0]) > 0
    assert LossConfig.model_validate({"contextual": {"candidates": "batch"}}).bank_size == 0


def test_the_bank_is_random_pictures_of_the_gallery_model_the_same_for_a_seed():
    first, second = reference(), reference()
    assert torch.equal(first.bank, second.bank)
    gallery = normalize(draw(40, DIM, seed=1))
    assert not torch.equal(first.bank, gallery)
    assert torch.equal(first.bank.sort(0).values, gallery.sort(0).values)


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        ({"influence": {"prototypes": "classifier"}}, "classifier"),
        ({"influence": {}}, "mean gallery embeddings"),
        ({"centre": {}}, "mean gallery embeddings"),
        ({"softmax": {}, "logits": {}}, "classifier"),
        ({"contextual": {}}, "gallery embeddings of the training pictures"),
        ({"structure": {}}, "gallery embeddings of the training pictures"),
    ],
)
def test_a_term_without_what_it_needs_of_the_gallery_model_is_refused(tree, what):
    with pytest.raises(ConfigError, match=what):
        make(tree, reference=None)


@pytest.mark.parametrize("name", ["alignment", "centroid", "contrastive", "relational"])
def test_a_term_without_gallery_embeddings_is_refused(name):
    query, labels, _ = batch()
    loss = make({name: {}})
    assert loss.needs_gallery
    with pytest.raises(ConfigError, match="need a gallery model"):
        loss(query, labels)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "at least one of softmax"),
        ({"logits": {}}, "add the softmax term"),
        ({"centre": {"alignment": 1}}, "add the softmax term"),
        ({"relational": {"distance": 0, "angle": 0}}, "distance or angle must weigh"),
        ({"decoupled": {"feature": 0, "inconsistent": 0, "consistent": 0}}, "must weigh something"),
        ({"alignment": {"distance": "L1"}}, "cosine"),
        ({"aligment": {}}, "Extra inputs"),
        ({"contextual": {"candidates": "batch", "bank": 77}}, "remove bank"),
        ({"influence": {"normalised": False, "scale": 64}}, "remove scale and margin"),
    ],
)
def test_a_loss_section_that_makes_no_sense_is_refused(tree, message):
    with pytest.raises(ValidationError, match=message):
        LossConfig.model_validate(tree)


def test_a_quantiser_that_does_not_fit_the_dimension_is_refused():
    with pytest.raises(ConfigError, match="does not divide"):
        make({"structure": {"parts": 3}})


def test_l2_alignment_sees_lengths_and_cosine_alignment_does_not():
    query, labels, gallery = batch()
    for distance, alike in (("cosine", True), ("l2", False)):
        loss = make({"alignment": {"distance": distance}})
        same = float(loss(query, labels, gallery)[0]) == pytest.approx(float(loss(3 * query, labels, gallery)[0]))
        assert same == alike
    assert float(alignment_loss(gallery, gallery)) == pytest.approx(0, abs=1e-6)


def test_own_prototypes_depend_on_the_seed_alone():
    first, same, other = (make({"softmax": {}}, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.prototypes, same.prototypes)
    assert not torch.equal(first.prototypes, other.prototypes)


def test_students_share_the_search_for_the_nearest_and_each_batch_has_its_own(monkeypatch):
    import hetero.losses.reference as module

    found = []
    search = module.nearest_candidates
    monkeypatch.setattr(module, "nearest_candidates", lambda *a, **k: found.append(k) or search(*a, **k))
    query, labels, gallery = batch()
    shared, terms = reference(), {name: {"neighbours": 5} for name in ("contextual", "ranking")}
    terms["decoupled"] = {"neighbours": 6}
    losses = [make(terms, reference=shared) for _ in range(3)]
    for other in (gallery, gallery.flip(0)):
        together = [loss(query, labels, other)[1] for loss in losses]
        alone = make(terms)(query, labels, other)[1]
        for name in terms:
            assert all(torch.equal(one[name], alone[name]) for one in together)
    assert sorted(one["neighbours"] for one in found) == [5] * 4 + [6] * 4  # two batches, once shared and once alone

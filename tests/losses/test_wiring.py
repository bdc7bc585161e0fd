"""Every option of every loss term reaches the formula: each term of a config against its function."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from hetero.losses.alignment import alignment_loss, l2_alignment_loss
from hetero.losses.centre import boundary_loss, centre_alignment_loss
from hetero.losses.centroid import centroid_loss
from hetero.losses.compatibility import CompatibilityLoss
from hetero.losses.config import LossConfig
from hetero.losses.contextual import contextual_loss
from hetero.losses.contrastive import contrastive_loss
from hetero.losses.decoupled import decoupled_loss
from hetero.losses.distillation import logit_distillation_loss
from hetero.losses.influence import influence_loss
from hetero.losses.ranking import ranking_loss
from hetero.losses.reference import make_reference
from hetero.losses.relational import relational_loss
from hetero.losses.softmax import margin_softmax_loss
from hetero.losses.structure import product_anchors, structure_loss
from hetero.losses.triplet import triplet_loss

CLASSES, DIM, PICTURES = 5, 16, 12
GENERATOR = torch.Generator().manual_seed(0)
KNOWN_EMBEDDINGS = torch.randn(40, DIM, generator=GENERATOR)
CLASSIFIER = torch.randn(CLASSES, DIM, generator=GENERATOR)
KNOWN = torch.tensor([True, True, True, False, True])
GALLERY = torch.randn(PICTURES, DIM, generator=GENERATOR)
QUERY = GALLERY + torch.randn(PICTURES, DIM, generator=GENERATOR)
LABELS = torch.arange(PICTURES) % CLASSES
REFERENCE = make_reference(
    KNOWN_EMBEDDINGS, torch.arange(40) % CLASSES, num_classes=CLASSES,
    classifier=torch.where(KNOWN[:, None], CLASSIFIER, 0.0), known=KNOWN, seed=3,
)  # fmt: skip
SEED = 6


def _own(loss):
    return loss.prototypes


# term, what a config says, what the function is told; every option has a value that is not its default
OPTIONS = [
    ("softmax", {"scale": 9.0, "margin": 0.35},
     lambda loss: margin_softmax_loss(QUERY, _own(loss), LABELS, scale=9.0, margin=0.35)),
    ("influence", {"scale": 9.0, "margin": 0.35},
     lambda loss: influence_loss(QUERY, REFERENCE.centres, LABELS, scale=9.0, margin=0.35)),
    ("influence", {"normalised": False},
     lambda loss: influence_loss(QUERY, REFERENCE.centres, LABELS, scale=16.0, margin=0.2, normalised=False)),
    ("influence", {"prototypes": "classifier"},
     lambda loss: influence_loss(QUERY, REFERENCE.classifier, LABELS, scale=16.0, margin=0.2, known=KNOWN)),
    ("influence", {"prototypes": "classifier", "missing": "centre"},
     lambda loss: influence_loss(QUERY, torch.where(KNOWN[:, None], REFERENCE.classifier, REFERENCE.centres), LABELS,
                                 scale=16.0, margin=0.2)),
    ("alignment", {}, lambda loss: alignment_loss(QUERY, GALLERY)),
    ("alignment", {"distance": "l2"}, lambda loss: l2_alignment_loss(QUERY, GALLERY)),
    ("centroid", {}, lambda loss: centroid_loss(QUERY, GALLERY, LABELS)),
    ("contrastive", {"margin": 0.1}, lambda loss: contrastive_loss(QUERY, GALLERY, LABELS, margin=0.1)),
    ("triplet", {"margin": 0.6}, lambda loss: triplet_loss(QUERY, GALLERY, LABELS, margin=0.6)),
    ("contextual", {"bank": 30, "neighbours": 7, "query_temperature": 0.3, "gallery_temperature": 0.2},
     lambda loss: contextual_loss(QUERY, GALLERY, REFERENCE.bank[:30], neighbours=7, query_temperature=0.3,
                                  gallery_temperature=0.2)),
    ("contextual", {"candidates": "batch", "neighbours": 7, "query_temperature": 0.3, "gallery_temperature": 0.2},
     lambda loss: contextual_loss(QUERY, GALLERY, GALLERY, neighbours=7, query_temperature=0.3,
                                  gallery_temperature=0.2)),
    ("structure", {"parts": 4, "anchors": 3, "bank": 30, "query_temperature": 0.3, "gallery_temperature": 0.2},
     lambda loss: structure_loss(QUERY, GALLERY, product_anchors(REFERENCE.bank[:30], parts=4, anchors=3, seed=SEED),
                                 query_temperature=0.3, gallery_temperature=0.2)),
    ("ranking", {"bank": 30, "neighbours": 7, "temperature": 0.2},
     lambda loss: ranking_loss(QUERY, GALLERY, REFERENCE.bank[:30], neighbours=7, temperature=0.2)),
    ("decoupled", {"bank": 30, "neighbours": 7, "feature": 2.0, "inconsistent": 3.0, "consistent": 5.0},
     lambda loss: decoupled_loss(QUERY, GALLERY, REFERENCE.bank[:30], neighbours=7, feature=2.0, inconsistent=3.0,
                                 consistent=5.0)),
    ("ranking", {"candidates": "batch", "neighbours": 7, "temperature": 0.2},
     lambda loss: ranking_loss(QUERY, GALLERY, GALLERY, neighbours=7, temperature=0.2)),
    ("decoupled", {"candidates": "batch", "neighbours": 7},
     lambda loss: decoupled_loss(QUERY, GALLERY, GALLERY, neighbours=7, feature=10.0, inconsistent=1.0,
                                 consistent=1.0)),
    ("centre", {"alignment": 0.75},
     lambda loss: boundary_loss(QUERY, REFERENCE.centres, REFERENCE.boundaries, LABELS)
     + 0.75 * centre_alignment_loss(_own(loss), REFERENCE.centres, torch.ones(CLASSES, dtype=torch.bool))),
    ("logits", {"scale": 9.0, "temperature": 2.0},
     lambda loss: logit_distillation_loss(QUERY, _own(loss)[KNOWN], GALLERY, REFERENCE.classifier[KNOWN], scale=9.0,
                                          temperature=2.0)),
    ("relational", {"distance": 3.0, "angle": 7.0, "group": 5},
     lambda loss: relational_loss(QUERY, GALLERY, distance=3.0, angle=7.0, group=5)),
]  # fmt: skip
_FREE_OF_OPTIONS = {"weight"}


def _made(name, options):
    own = {"softmax": {}} if name in ("logits", "centre") else {}
    config = LossConfig.model_validate(own | {name: options})
    return CompatibilityLoss(config, num_classes=CLASSES, dim=DIM, reference=REFERENCE, seed=SEED)


@pytest.mark.parametrize(("name", "options", "expected"), OPTIONS, ids=[f"{n}-{'-'.join(o)}" for n, o, _ in OPTIONS])
def test_a_term_is_its_function_with_the_options_of_the_config(name, options, expected):
    loss = _made(name, options)
    found = float(loss(QUERY, LABELS, GALLERY)[1][name].detach())
    assert found == pytest.approx(float(expected(loss).detach()), rel=1e-5)


@pytest.mark.parametrize(("name", "options", "_"), OPTIONS, ids=[f"{n}-{'-'.join(o)}" for n, o, _ in OPTIONS])
def test_every_one_of_these_options_makes_a_difference(name, options, _):
    for option in options:
        rest = {key: value for key, value in options.items() if key != option}
        if (name, option) == ("influence", "prototypes"):
            rest.pop("missing", None)
        if option == "candidates":
            rest["bank"] = 30
        values = [float(_made(name, o)(QUERY, LABELS, GALLERY)[1][name].detach()) for o in (options, rest)]
        assert abs(values[0] - values[1]) > 1e-4, option


def test_every_option_that_there_is_stands_above():
    missing = {
        f"{name}.{option}"
        for name, field in LossConfig.model_fields.items()
        for option in next(a for a in field.annotation.__args__ if a is not type(None)).model_fields
        if option not in _FREE_OF_OPTIONS
        and not any(term == name and option in options for term, options, _ in OPTIONS)
    }
    assert missing == set()


def test_a_batch_of_equal_pictures_does_not_throw_a_student_out():
    """Batch normalisation makes embeddings of length 0 of them."""
    for name, options in (("alignment", {}), ("contextual", {"bank": 30}), ("softmax", {}), ("centroid", {})):
        equal = torch.zeros(PICTURES, DIM, requires_grad=True)
        loss = _made(name, options)
        loss(equal, LABELS, normalize(GALLERY))[0].backward()
        assert float(equal.grad.norm()) < 1e4, name

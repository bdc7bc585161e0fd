"""Every term against its formula as a loop, in float32 and float64, and what it can and cannot see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import naive_losses as naive
import pytest
import torch
from torch.nn.functional import normalize

from hetero.losses.alignment import alignment_loss, l2_alignment_loss
from hetero.losses.centre import boundary_loss, centre_alignment_loss, class_centres
from hetero.losses.centroid import centroid_loss
from hetero.losses.contextual import contextual_loss
from hetero.losses.contrastive import contrastive_loss
from hetero.losses.decoupled import decoupled_loss
from hetero.losses.distillation import logit_distillation_loss
from hetero.losses.influence import influence_loss
from hetero.losses.ranking import ranking_loss
from hetero.losses.relational import relational_loss
from hetero.losses.structure import product_anchors, structure_loss
from hetero.losses.triplet import triplet_loss

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}
BATCH, CLASSES, DIM = 9, 4, 6


class World:
    """A batch, its gallery embeddings, prototypes on both sides, a bank and a quantiser."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.gallery = 2 * draw(BATCH, DIM)
        self.query = self.gallery + 1.5 * draw(BATCH, DIM)
        self.labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        self.own, self.theirs = draw(CLASSES, DIM), draw(CLASSES, DIM)
        self.bank = draw(20, DIM)
        self.anchors = draw(3, 5, DIM // 3) / 2
        self.boundaries = torch.tensor([0.9, 0.2, -1.0, 0.5], dtype=dtype)


@dataclass(frozen=True)
class Case:
    loss: Callable[[World, torch.Tensor], torch.Tensor]
    naive: Callable[[World], float]
    placing: bool = True  # says where in the gallery's space an embedding belongs


def lists(*tensors):
    return [tensor.tolist() for tensor in tensors]


SOFT = {"query_temperature": 0.1, "gallery_temperature": 0.2}
PARTS = {"feature": 3.0, "inconsistent": 2.0, "consistent": 0.7}
CASES = {
    "influence": Case(
        lambda w, q: influence_loss(q, w.theirs, w.labels, scale=12.0, margin=0.1),
        lambda w: naive.margin_softmax(*lists(w.query, w.theirs, w.labels), 12.0, 0.1),
    ),
    "plain influence": Case(
        lambda w, q: influence_loss(q, w.theirs, w.labels, scale=1.0, normalised=False),
        lambda w: naive.margin_softmax(*lists(w.query, w.theirs, w.labels), 1.0, 0.0, normalised=False),
    ),
    "alignment": Case(lambda w, q: alignment_loss(q, w.gallery), lambda w: naive.alignment(*lists(w.query, w.gallery))),
    "l2 alignment": Case(
        lambda w, q: l2_alignment_loss(q, w.gallery), lambda w: naive.l2_alignment(*lists(w.query, w.gallery))
    ),
    "contrastive": Case(
        lambda w, q: contrastive_loss(q, w.gallery, w.labels, margin=0.1),
        lambda w: naive.contrastive(*lists(w.query, w.gallery, w.labels), 0.1),
    ),
    "triplet": Case(
        lambda w, q: triplet_loss(q, w.gallery, w.labels, margin=0.3),
        lambda w: naive.triplet(*lists(w.query, w.gallery, w.labels), 0.3),
    ),
    "contextual": Case(
        lambda w, q: contextual_loss(q, w.gallery, w.bank, neighbours=7, **SOFT),
        lambda w: naive.contextual(*lists(w.query, w.gallery, w.bank), 7, 0.1, 0.2),
    ),
    "contextual, few candidates": Case(
        lambda w, q: contextual_loss(q, w.gallery, w.bank[:3], neighbours=7, **SOFT),
        lambda w: naive.contextual(*lists(w.query, w.gallery, w.bank[:3]), 7, 0.1, 0.2),
    ),
    "structure": Case(
        lambda w, q: structure_loss(q, w.gallery, w.anchors, **SOFT),
        lambda w: naive.structure(*lists(w.query, w.gallery, w.anchors), 0.1, 0.2),
    ),
    "ranking": Case(
        lambda w, q: ranking_loss(q, w.gallery, w.bank, neighbours=6, temperature=0.3),
        lambda w: naive.ranking(*lists(w.query, w.gallery, w.bank), 6, 0.3),
    ),
    "decoupled": Case(
        lambda w, q: decoupled_loss(q, w.gallery, w.bank, neighbours=5, **PARTS),
        lambda w: naive.decoupled(*lists(w.query, w.gallery, w.bank), 5, 3.0, 2.0, 0.7),
    ),
    "boundary": Case(
        lambda w, q: boundary_loss(q, w.theirs, w.boundaries, w.labels),
        lambda w: naive.boundary(*lists(w.query, w.theirs, w.boundaries, w.labels)),
    ),
    "logits": Case(
        lambda w, q: logit_distillation_loss(q, w.own, w.gallery, w.theirs, scale=16.0, temperature=4.0),
        lambda w: naive.logits(*lists(w.query, w.own, w.gallery, w.theirs), 16.0, 4.0),
        placing=False,
    ),
    "relational": Case(
        lambda w, q: relational_loss(q, w.gallery, distance=2.0, angle=3.0),
        lambda w: naive.relational(*lists(w.query, w.gallery), 2.0, 3.0),
        placing=False,
    ),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_term_equals_its_formula_as_a_loop(case, dtype, seed):
    world = World(dtype, seed)
    found = case.loss(world, world.query)
    assert found.dtype == dtype
    assert float(found) > 0.01, "an example where nothing happens tests nothing"
    assert float(found) == pytest.approx(case.naive(world), rel=TOLERANCE[dtype])


@EVERY
def test_gradients_equal_finite_differences(case):
    world = World(torch.float64)
    query = world.query.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda q: case.loss(world, q), (query,), eps=1e-7, atol=1e-5)


@EVERY
def test_gradients_reach_the_query_alone(case):
    world = World(torch.float32)
    for name in ("gallery", "theirs", "bank", "anchors"):
        getattr(world, name).requires_grad_(True)
    query = world.query.clone().requires_grad_(True)
    case.loss(world, query).backward()
    assert query.grad is not None
    assert bool((query.grad != 0).any())
    assert world.gallery.grad is world.theirs.grad is world.bank.grad is world.anchors.grad is None


@EVERY
def test_a_term_sees_a_rotation_of_the_students_space_or_is_a_negative_control(case):
    world = World(torch.float64)
    rotation, _ = torch.linalg.qr(
        torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    )
    before = case.loss(world, world.query)
    world.own = world.own @ rotation  # the student's own classifier turns with it
    after = case.loss(world, world.query @ rotation)
    assert (abs(float(after - before)) > 1e-3) == case.placing


@pytest.mark.parametrize(
    "name", ["alignment", "l2 alignment", "contextual, equal", "structure, equal", "relational", "decoupled"]
)
def test_a_student_that_is_the_gallery_model_has_no_loss(name):
    w = World(torch.float64)
    equal = {"query_temperature": 0.1, "gallery_temperature": 0.1}
    found = {
        "alignment": lambda: alignment_loss(w.gallery, w.gallery),
        "l2 alignment": lambda: l2_alignment_loss(w.gallery, w.gallery),
        "contextual, equal": lambda: contextual_loss(w.gallery, w.gallery, w.bank, neighbours=5, **equal),
        "structure, equal": lambda: structure_loss(w.gallery, w.gallery, w.anchors, **equal),
        "relational": lambda: relational_loss(w.gallery, w.gallery, distance=1.0, angle=1.0),
        "decoupled": lambda: decoupled_loss(w.gallery, w.gallery, w.bank, neighbours=5, **PARTS),
    }[name]()
    assert float(found) == pytest.approx(0, abs=1e-12)


def test_equal_embeddings_have_finite_gradients():
    """Duplicates in a batch: distances and differences of 0, where a root has no derivative."""
    w = World(torch.float32)
    w.gallery[1], w.bank[1] = w.gallery[0], w.bank[0]
    query = w.gallery.clone().requires_grad_(True)
    total = (
        relational_loss(query, w.gallery * 2, distance=1.0, angle=1.0)
        + decoupled_loss(query, w.gallery, w.bank, neighbours=20, **PARTS)
        + ranking_loss(query, w.gallery, w.bank, neighbours=20, temperature=0.1)
    )
    total.backward()
    assert bool(torch.isfinite(query.grad).all())


@pytest.mark.parametrize(("group", "sizes"), [(3, (3, 3, 2)), (4, (4, 4)), (8, (8,)), (None, (8,))])
def test_relations_of_a_large_batch_are_those_within_equal_groups_of_it(group, sizes):
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    parts = zip(query.split(sizes), gallery.split(sizes), strict=True)
    expected = [naive.relational(one.tolist(), other.tolist(), 2.0, 3.0) for one, other in parts]
    found = relational_loss(query, gallery, distance=2.0, angle=3.0, group=group)
    assert float(found) == pytest.approx(sum(expected) / len(expected), rel=1e-9)


def test_ranking_allows_any_monotonic_change_of_the_similarities():
    """A query embedding half way to the candidates' mean ranks alike and aligns worse."""
    w = World(torch.float64)
    bank = torch.eye(DIM, dtype=torch.float64)
    gallery = normalize(torch.tensor([[6.0, 5, 4, 3, 2, 1]], dtype=torch.float64))
    flatter = normalize(gallery + 0.3)
    sharp = {"neighbours": DIM, "temperature": 1e-3}
    assert float(ranking_loss(flatter, gallery, bank, **sharp)) == pytest.approx(0, abs=1e-9)
    assert float(alignment_loss(flatter, gallery)) > 0.01
    assert float(ranking_loss(gallery.flip(1), gallery, bank, **sharp)) == pytest.approx(30 / 36)
    del w


@pytest.mark.parametrize("normalised", [True, False])
def test_influence_skips_classes_without_a_prototype(normalised):
    w = World(torch.float64)
    known = torch.tensor([True, False, True, True])
    found = influence_loss(w.query, w.theirs, w.labels, scale=9.0, margin=0.2, normalised=normalised, known=known)
    kept = [i for i, label in enumerate(w.labels.tolist()) if label != 1]
    assert len(kept) < BATCH
    place = {0: 0, 2: 1, 3: 2}
    expected = naive.margin_softmax(
        [w.query[i].tolist() for i in kept],
        w.theirs[known].tolist(),
        [place[int(w.labels[i])] for i in kept],
        9.0,
        0.2,
        normalised,
    )
    assert float(found) == pytest.approx(expected, rel=1e-11)


def test_influence_of_a_batch_of_unknown_classes_is_nothing_with_a_gradient():
    w = World(torch.float32)
    query = w.query.clone().requires_grad_(True)
    none = torch.zeros(CLASSES, dtype=torch.bool)
    none[0] = True
    labels = torch.full((BATCH,), 2)
    loss = influence_loss(query, w.theirs, labels, scale=9.0, known=none)
    loss.backward()
    assert loss.item() == 0
    assert bool((query.grad == 0).all())


def test_class_centres_equal_a_loop_and_mark_empty_classes():
    w = World(torch.float64)
    labels = torch.where(w.labels == 2, 3, w.labels)
    centres, boundaries, known = class_centres(w.gallery, labels, num_classes=CLASSES)
    expected = naive.centres_of(*lists(w.gallery, labels), CLASSES)
    assert torch.allclose(centres, torch.tensor(expected[0], dtype=torch.float64))
    assert torch.allclose(boundaries, torch.tensor(expected[1], dtype=torch.float64))
    assert known.tolist() == [c in labels.tolist() for c in range(CLASSES)]
    assert not known[2]


def test_the_gallery_models_own_pictures_keep_its_boundaries():
    w = World(torch.float64)
    centres, boundaries, _ = class_centres(w.gallery, w.labels, num_classes=CLASSES)
    assert float(boundary_loss(w.gallery, centres, boundaries, w.labels)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_centre_alignment_equals_a_loop_over_known_classes(dtype):
    w = World(dtype)
    known = torch.tensor([True, True, False, True])
    w.own.requires_grad_(True)
    found = centre_alignment_loss(w.own, w.theirs, known)
    found.backward()
    assert float(found.detach()) == pytest.approx(
        naive.centre_alignment(*lists(w.own.detach(), w.theirs, known)), rel=TOLERANCE[dtype]
    )
    assert bool((w.own.grad[2] == 0).all())


def test_product_anchors_find_separated_groups_and_repeat_with_their_seed():
    generator = torch.Generator().manual_seed(1)
    corners = normalize(torch.tensor([[3.0, 0, 1, 1], [0, 3, 1, -1], [-3, 0, -1, 1]]))
    points = corners.repeat(40, 1) + 0.01 * torch.randn(120, 4, generator=generator)
    found = product_anchors(points, parts=2, anchors=3, seed=5)
    assert found.shape == (2, 3, 2)
    nearest = torch.cdist(normalize(points)[:, :2], found[0]).argmin(1)
    for centre in range(3):  # where k-means has come to rest, a centre is the mean of its members
        assert torch.allclose(normalize(points)[nearest == centre, :2].mean(0), found[0, centre], atol=1e-5)
    for part in range(2):
        apart = torch.cdist(normalize(corners)[:, 2 * part : 2 * part + 2], found[part]).min(1).values
        assert float(apart.max()) < 0.1
    noise = torch.randn(120, 4, generator=generator)
    again = [product_anchors(noise, parts=2, anchors=9, seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_product_anchors_with_more_anchors_than_points_or_odd_parts():
    points = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert product_anchors(points, parts=3, anchors=64, seed=0).shape == (3, 3, 2)
    with pytest.raises(ValueError, match="6 dimensions cannot be cut into 4 equal parts"):
        product_anchors(points, parts=4, anchors=2, seed=0)


def test_centroid_at_one_picture_a_class_is_alignment():
    w = World(torch.float64)
    alone = torch.arange(BATCH)
    assert float(centroid_loss(w.query, w.gallery, alone)) == pytest.approx(float(alignment_loss(w.query, w.gallery)))

"""Each term against a naive Python loop, in float32 and float64, and the weighted sum."""

from __future__ import annotations

import math

import pytest
import torch

from hetero.losses.alignment import alignment_loss
from hetero.losses.centroid import centroid_loss
from hetero.losses.influence import influence_loss
from hetero.losses.softmax import margin_softmax_loss

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def naive_softmax(embedding, prototypes, labels, scale, margin) -> float:
    losses = []
    for row, label in zip(embedding.tolist(), labels.tolist(), strict=True):
        x = unit(row)
        logits = []
        for index, prototype in enumerate(prototypes.tolist()):
            cosine = sum(a * b for a, b in zip(x, unit(prototype), strict=True))
            logits.append(scale * (cosine - (margin if index == label else 0.0)))
        losses.append(math.log(sum(math.exp(v) for v in logits)) - logits[label])
    return sum(losses) / len(losses)


def example(dtype, seed=0, batch=5, classes=7, dim=4):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, dim, generator=generator, dtype=dtype) * 3
    prototypes = torch.randn(classes, dim, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (batch,), generator=generator)
    return embedding, prototypes, labels


@DTYPES
@pytest.mark.parametrize(("scale", "margin"), [(1.0, 0.0), (16.0, 0.2), (30.0, 0.5)])
def test_margin_softmax_equals_a_naive_loop(dtype, scale, margin):
    embedding, prototypes, labels = example(dtype)
    found = margin_softmax_loss(embedding, prototypes, labels, scale=scale, margin=margin)
    assert float(found) == pytest.approx(
        naive_softmax(embedding, prototypes, labels, scale, margin), rel=TOLERANCE[dtype]
    )


@DTYPES
def test_influence_equals_a_naive_loop_and_leaves_the_prototypes_alone(dtype):
    embedding, prototypes, labels = example(dtype, seed=1)
    embedding.requires_grad_(True)
    prototypes.requires_grad_(True)
    found = influence_loss(embedding, prototypes, labels, scale=16.0, margin=0.1)
    found.backward()
    assert float(found.detach()) == pytest.approx(
        naive_softmax(embedding, prototypes, labels, 16.0, 0.1), rel=TOLERANCE[dtype]
    )
    assert prototypes.grad is None
    assert embedding.grad is not None
    assert embedding.grad.abs().max() > 0


@DTYPES
def test_alignment_equals_a_naive_loop_and_moves_only_the_query(dtype):
    query, gallery, _ = example(dtype, seed=2, batch=6, classes=6)
    query.requires_grad_(True)
    gallery.requires_grad_(True)
    found = alignment_loss(query, gallery)
    found.backward()
    naive = [
        1 - sum(a * b for a, b in zip(unit(q), unit(g), strict=True))
        for q, g in zip(query.tolist(), gallery.tolist(), strict=True)
    ]
    assert float(found.detach()) == pytest.approx(sum(naive) / len(naive), rel=TOLERANCE[dtype])
    assert gallery.grad is None
    assert query.grad is not None
    assert query.grad.abs().max() > 0


def test_alignment_is_zero_for_the_same_direction_and_two_for_the_opposite():
    x = torch.tensor([[3.0, 4.0]])
    assert float(alignment_loss(2 * x, x)) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss(-x, x)) == pytest.approx(2, abs=1e-6)


@DTYPES
def test_centroid_loss_equals_a_naive_loop_and_moves_only_the_query(dtype):
    query, gallery, _ = example(dtype, seed=2, batch=6, classes=6)
    labels = torch.tensor([3, -2, 3, 5, -2, 3])
    query.requires_grad_(True)
    gallery.requires_grad_(True)
    found = centroid_loss(query, gallery, labels)
    found.backward()
    halves = []
    for group in (3, -2, 5):
        rows = [i for i, label in enumerate(labels.tolist()) if label == group]
        errors = [
            [a - b for a, b in zip(unit(query[i].tolist()), unit(gallery[i].tolist()), strict=True)] for i in rows
        ]
        mean = [sum(column) / len(rows) for column in zip(*errors, strict=True)]
        halves.append(0.5 * sum(value * value for value in mean))
    assert float(found.detach()) == pytest.approx(sum(halves) / 3, rel=TOLERANCE[dtype])
    assert gallery.grad is None
    assert query.grad is not None
    assert query.grad.abs().max() > 0


def test_centroid_loss_is_alignment_for_single_pictures_and_forgives_opposite_errors():
    query, gallery, _ = example(torch.float32, seed=3, batch=6, classes=6)
    single = centroid_loss(query, gallery, torch.arange(6))
    assert float(single) == pytest.approx(float(alignment_loss(query, gallery)), rel=1e-5)
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    query = torch.tensor([[0.6, 0.8], [0.6, -0.8]])
    apart, together = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert float(centroid_loss(query, gallery, apart)) == pytest.approx(0.4, rel=1e-5)
    assert float(centroid_loss(query, gallery, together)) == pytest.approx(0.5 * 0.4**2, rel=1e-5)

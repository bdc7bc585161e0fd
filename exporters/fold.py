"""Fold what is constant: batch and colour normalisation go into the convolutions beside them, where that is exact."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.graph import Graph, Operation

SMALLEST_SCALE = 1e-3  # of a channel, against the largest: dividing by less would blow its term up, by 0 to infinity


def fold(graph: Graph) -> Graph:
    """The same function with fewer operations. Weights are combined in float64 and rounded once.

    - a factor and term per channel *behind* a convolution or linear layer goes into its weights and bias;
    - the factor *before* a convolution goes into its weights; the term, too, but only where nothing is padded: the
      padded zeros mean a mean colour, which has no place in a bias. Where a channel's factor is nearly 0, both stay.

    A result that several operations read is left alone.
    """
    operations = list(graph.operations)
    changed = True
    while changed:
        changed = False
        for index, second in enumerate(operations):
            before = [place for place, first in enumerate(operations) if first.name in second.inputs]
            if len(before) != 1 or len(second.inputs) != 1:
                continue
            [place] = before
            first = operations[place]
            if sum(first.name in operation.inputs for operation in operations) != 1:
                continue
            merged = _merge(first, second)
            if merged is None:
                continue
            operations[index] = merged[-1]
            operations[place : place + 1] = merged[:-1]
            changed = True
            break
    return Graph(graph.shape, tuple(operations))


def _merge(first: Operation, second: Operation) -> tuple[Operation, ...] | None:
    """Operations that do what the two did one after the other, or None where none are simpler."""
    if first.kind in ("conv", "linear") and second.kind == "affine":
        return (_behind(first, second),)
    if first.kind == "affine" and second.kind == "affine":
        scale = _or(first.weights.get("scale"), 1.0) * _or(second.weights.get("scale"), 1.0)
        shift = _or(first.weights.get("shift"), 0.0) * _or(second.weights.get("scale"), 1.0) + _or(
            second.weights.get("shift"), 0.0
        )
        weights = {"scale": scale.float().expand(first.shape[0]), "shift": shift.float().expand(first.shape[0])}
        return (replace(second, inputs=first.inputs, weights=weights),)
    if first.kind == "affine" and second.kind == "conv" and "scale" in first.weights:
        return _before(first, second)
    return None


def _or(tensor: Tensor | None, default: float) -> Tensor:
    return torch.tensor(default, dtype=torch.float64) if tensor is None else tensor.double()


def _behind(layer: Operation, affine: Operation) -> Operation:
    weight = layer.weights["weight"].double()
    scale = _or(affine.weights.get("scale"), 1.0).expand(len(weight))
    bias = _or(layer.weights.get("bias"), 0.0) * scale + _or(affine.weights.get("shift"), 0.0)
    weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    # It keeps the second's name, by which later operations know the result, and the layer's module.
    return replace(layer, name=affine.name, weights={"weight": weight.float(), "bias": bias.float()})


def _before(affine: Operation, conv: Operation) -> tuple[Operation, ...] | None:
    weight = conv.weights["weight"].double()
    groups = conv.options["groups"]
    # A filter of group g sees the channels [g · n, (g + 1) · n), n of them.
    seen = affine.weights["scale"].double().reshape(groups, 1, -1)
    scaled = (weight.reshape(groups, -1, *weight.shape[1:]) * seen[..., None, None]).reshape(weight.shape)
    weights = {**conv.weights, "weight": scaled.float()}
    shift = affine.weights.get("shift")
    if shift is None or not shift.any():
        return (replace(conv, inputs=affine.inputs, weights=weights),)
    if not any(conv.options["padding"]):
        terms = shift.double().reshape(groups, 1, -1, 1, 1) * weight.reshape(groups, -1, *weight.shape[1:])
        bias = _or(conv.weights.get("bias"), 0.0) + terms.sum((2, 3, 4)).reshape(-1)
        return (replace(conv, inputs=affine.inputs, weights={**weights, "bias": bias.float()}),)
    size = affine.weights["scale"].double().abs()
    if size.min() < SMALLEST_SCALE * size.max():
        return None
    # scale · x + shift = scale · (x + shift / scale)
    rest = replace(affine, weights={"shift": (shift.double() / affine.weights["scale"].double()).float()})
    return rest, replace(conv, weights=weights)

"""Which layer loses the cosine: each one quantised alone, in torch."""

from __future__ import annotations

import numpy as np
import torch

from exporters.graph import IMAGE, Graph, GraphNetwork
from exporters.manifest import LayerError
from exporters.parity import compare
from exporters.quantize import ACTIVATIONS, QuantizedNetwork, Ranges, Scheme, as_image, batches

_NOTHING = 1e-7  # of a cosine: float32 roundings


def layer_errors(graph: Graph, ranges: Ranges, scheme: Scheme, pixels: np.ndarray) -> tuple[LayerError, ...]:
    """Each layer rounded by itself, all else in float32: how far the embedding moves, the furthest first.

    An activation counts with the layer that it follows. Layers whose rounding moves nothing are left out.

    Args:
        ranges: from :func:`exporters.quantize.observe`.
        pixels: ``uint8 [n, h, w, c]``, pictures like those to be embedded.
    """
    steps = {
        operation.name: [user.name for user in graph.users(operation.name) if user.kind in ACTIVATIONS]
        for operation in graph.operations
        if operation.kind not in ACTIVATIONS or operation.inputs == (IMAGE,)
    }
    rounded = {
        name: QuantizedNetwork(graph, ranges, scheme, only={name, *followers}) for name, followers in steps.items()
    }
    embedding = graph.operations[-1].name
    exact_parts: list[np.ndarray] = []
    moved_parts: dict[str, list[np.ndarray]] = {name: [] for name in steps}
    with torch.no_grad():
        for batch in batches(pixels):
            exact = GraphNetwork(graph).results(as_image(batch))
            exact_parts.append(exact[embedding].numpy())
            for name, network in rounded.items():
                moved_parts[name].append(network.results_from(exact, name)[embedding].numpy())
    found = []
    for operation in graph.operations:
        if operation.name in steps:
            parity = compare(np.concatenate(exact_parts), np.concatenate(moved_parts[operation.name]))
            found.append(
                LayerError(
                    name=operation.name,
                    kind=operation.kind,
                    module=operation.module,
                    weights=sum(tensor.numel() for tensor in operation.weights.values()),
                    min_cosine=parity.min_cosine,
                    mean_cosine=parity.mean_cosine,
                )
            )
    return tuple(sorted((error for error in found if error.min_cosine < 1 - _NOTHING), key=lambda e: e.mean_cosine))

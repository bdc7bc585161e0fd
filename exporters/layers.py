"""Which layer loses the cosine: each one quantised alone, in torch."""

from __future__ import annotations

import numpy as np
import torch

from exporters.graph import IMAGE, Graph, GraphNetwork
from exporters.manifest import LayerError
from exporters.parity import compare
from exporters.quantize import ACTIVATIONS, QuantizedNetwork, Ranges, Scheme, as_image

_NOTHING = 1e-7  # of a cosine: float32 roundings


def layer_errors(graph: Graph, ranges: Ranges, scheme: Scheme, pixels: np.ndarray) -> tuple[LayerError, ...]:
    """Each layer rounded by itself, all else in float32: how far the embedding moves, the furthest first.

    An activation counts with the layer that it follows. Layers whose rounding moves nothing are left out.

    Args:
        ranges: from :func:`exporters.quantize.observe`.
        pixels: ``uint8 [n, h, w, c]``, pictures like those to be embedded.
    """
    found = []
    with torch.no_grad():
        exact = GraphNetwork(graph).results(as_image(pixels))
        for operation in graph.operations:
            if operation.kind in ACTIVATIONS and operation.inputs != (IMAGE,):
                continue
            followers = [user.name for user in graph.users(operation.name) if user.kind in ACTIVATIONS]
            network = QuantizedNetwork(graph, ranges, scheme, only={operation.name, *followers})
            moved = network.results_from(exact, operation.name)
            parity = compare(exact[graph.operations[-1].name].numpy(), moved[graph.operations[-1].name].numpy())
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


def emulated(graph: Graph, ranges: Ranges, scheme: Scheme, pixels: np.ndarray) -> np.ndarray:
    """The embeddings with everything rounded, ``float32 [n, dim]``: what a right int8 file should come near."""
    with torch.no_grad():
        vectors: np.ndarray = QuantizedNetwork(graph, ranges, scheme)(as_image(pixels)).numpy()
    return vectors

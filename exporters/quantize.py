"""Int8 in torch: what quantisation does to a graph, layer by layer, before any file is written.

A value is rounded to one of 2⁸ levels, ``scale · (q − zero_point)``: weights symmetrically per output channel, results
affinely per tensor between the least and the largest value that calibration pictures gave.
Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
CVPR 2018, sections 2.1 and 3. The backward pass takes rounding for the identity (section 3).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from exporters.graph import IMAGE, Graph, GraphNetwork, Operation, Step

LAYERS = ("conv", "linear")  # the operations that have weights to round
ACTIVATIONS = ("relu", "clamp")  # computed within the operation before, whose bare result is never rounded
_UNROUNDED = ("unit_length", "flatten", "spread", "max_pool")  # float always, or already rounded
_BATCH = 8  # pictures at a time: every activation of a batch is in memory
_LLOYD = 20  # rounds of k-means; in one dimension, from quantiles, it has settled

Ranges = Mapping[str, tuple[float, float]]
"""By operation: the least and the largest value of its result; 0 lies within."""


@dataclass(frozen=True)
class Scheme:
    """Which numbers are rounded: bits of the weights, and of the results (None: those stay float).

    ``palette``: weights are not evenly spaced, but the nearest of the best ``2^weight_bits`` values for each layer.
    """

    weight_bits: int
    result_bits: int | None
    palette: bool = False


STATIC = Scheme(8, 8)
REDUCED = Scheme(7, 8)  # what exporters/onnx_int8.py writes
WEIGHTS = Scheme(8, None)
PALETTE = Scheme(6, None, palette=True)


def observe(graph: Graph, pixels: np.ndarray) -> dict[str, tuple[float, float]]:
    """The range of every operation's result over pictures ``uint8 [n, h, w, c]``."""
    network = GraphNetwork(graph)
    ranges = {operation.name: (0.0, 0.0) for operation in graph.operations}
    with torch.no_grad():
        for batch in batches(pixels):
            results = network.results(as_image(batch))
            for name, (low, high) in ranges.items():
                ranges[name] = min(low, float(results[name].min())), max(high, float(results[name].max()))
    return ranges


def batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """So few pictures at a time that all their activations fit into memory."""
    for start in range(0, len(pixels), _BATCH):
        yield pixels[start : start + _BATCH]


def as_image(pixels: np.ndarray) -> Tensor:
    """``uint8 [n, h, w, c]`` as a graph takes it, float32 ``[n, c, h, w]``."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float()


class QuantizedNetwork(GraphNetwork):
    """A graph whose numbers are rounded as an int8 file's are; its weights can be trained.

    Args:
        ranges: from :func:`observe`; may be empty where the scheme leaves results alone.
        only: round these operations only; None: all but ``keep_float``.
    """

    def __init__(
        self,
        graph: Graph,
        ranges: Ranges,
        scheme: Scheme,
        *,
        keep_float: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__(graph)
        self.ranges, self.scheme = ranges, scheme
        names = [operation.name for operation in graph.operations] if only is None else only
        self.rounded = frozenset(names) - frozenset(keep_float)

    def results(self, image: Tensor) -> dict[str, Tensor]:
        """What every operation computes, rounded, from pictures ``[b, c, h, w]`` in 0..255."""
        results = {IMAGE: image}
        for operation in self.graph.operations:
            results[operation.name] = self._result(operation, results)
        return results

    def results_from(self, exact: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
        """As :meth:`results` where only ``name`` and what follows it differ from ``exact``: only that is computed."""
        results, changed = dict(exact), {name}
        for operation in self.graph.operations:
            if operation.name == name or changed.intersection(operation.inputs):
                changed.add(operation.name)
                results[operation.name] = self._result(operation, results)
        return results

    def _result(self, operation: Operation, results: Mapping[str, Tensor]) -> Tensor:
        values = [results[name] for name in operation.inputs]
        step = cast("Step", self.steps[operation.name])
        rounded = operation.name in self.rounded
        if rounded and operation.kind in LAYERS:
            weights = dict(step.weights.items())
            rounding = palette_weight if self.scheme.palette else rounded_weight
            weights["weight"] = rounding(weights["weight"], self.scheme.weight_bits)
            result = step.compute(values, weights)
        else:
            result = step(*values)
        if rounded and self._is_rounded(operation):
            result = _rounded_result(result, *self.ranges[operation.name], self.scheme.result_bits or 0)
        return result

    def _is_rounded(self, operation: Operation) -> bool:
        if self.scheme.result_bits is None or operation.kind in _UNROUNDED:
            return False
        users = self.graph.users(operation.name)
        return not (len(users) == 1 and users[0].kind in ACTIVATIONS)


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Rounded to ``2^bits − 1`` symmetric levels per output channel (the first dimension)."""
    most = 2 ** (bits - 1) - 1
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny * most) / most
    zero = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -most, most)


def palette_weight(weight: Tensor, bits: int) -> Tensor:
    """Each weight replaced by the nearest of ``2^bits`` values, which 1-D k-means (Lloyd's) finds for the layer."""
    flat = weight.detach().flatten()
    centres = torch.quantile(flat, torch.linspace(0, 1, 2**bits))
    for _ in range(_LLOYD):
        places = torch.bucketize(flat, (centres[1:] + centres[:-1]) / 2)
        sums = torch.zeros_like(centres).scatter_add_(0, places, flat)
        counts = torch.zeros_like(centres).scatter_add_(0, places, torch.ones_like(flat))
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres).sort().values
    return centres[torch.bucketize(flat, (centres[1:] + centres[:-1]) / 2)].reshape(weight.shape)


def _rounded_result(result: Tensor, low: float, high: float, bits: int) -> Tensor:
    steps = 2**bits - 1
    scale = max(high - low, 1e-12) / steps
    return torch.fake_quantize_per_tensor_affine(result, scale, max(0, min(steps, round(-low / scale))), 0, steps)

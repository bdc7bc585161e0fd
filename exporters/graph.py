"""What an exported graph may consist of: a short list of operations, each with its meaning in torch.

A network is traced into these (trace.py), simplified (fold.py), and written from them into every format. What a format
must compute is thus stated once, here, and :class:`GraphNetwork` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = "image"  # the name of the graph's input
NORM_EPSILON = 1e-12  # torch.nn.functional.normalize's: a zero vector stays zero instead of becoming NaN


@dataclass(frozen=True)
class Operation:
    """One step of a graph; its result is known to later steps by ``name``.

    ``options`` are plain numbers and tuples, ``weights`` float32 tensors. ``module`` is the dotted path of the module
    whose ``forward`` asked for it (empty: the network's own). ``shape`` is one picture's result.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    module: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """From a picture, float32 ``[b, c, h, w]`` in 0..255, to a unit-length embedding ``[b, dim]``.

    ``operations`` are in an order in which they can be computed; the last one's result is the embedding.
    """

    shape: tuple[int, int, int]
    operations: tuple[Operation, ...]

    @property
    def dim(self) -> int:
        """Components of the embedding."""
        return self.operations[-1].shape[0]

    def users(self, name: str) -> list[Operation]:
        """The operations that read a result."""
        return [operation for operation in self.operations if name in operation.inputs]


class Step(nn.Module):
    """One operation, its weights as parameters, in torch's own layout: see hetero/models/convolution.py."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation
        self.weights = nn.ParameterDict(
            {
                name: nn.Parameter(tensor.clone(memory_format=torch.contiguous_format))
                for name, tensor in operation.weights.items()
            }
        )

    def forward(self, *values: Tensor) -> Tensor:
        """The operation's result."""
        return self.compute(values, dict(self.weights.items()))

    def compute(self, values: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        """The operation's result with these weights in place of its own."""
        return OPERATIONS[self.operation.kind](*values, **weights, **self.operation.options)


class GraphNetwork(nn.Module):
    """A graph as a torch module, its weights as parameters: the meaning of every exported file."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.steps = nn.ModuleDict({operation.name: Step(operation) for operation in graph.operations})

    def forward(self, image: Tensor) -> Tensor:
        """Embed pictures ``[b, c, h, w]`` in 0..255."""
        return self.results(image)[self.graph.operations[-1].name]

    def results(self, image: Tensor) -> dict[str, Tensor]:
        """What every operation computes from pictures ``[b, c, h, w]`` in 0..255, by name."""
        results = {IMAGE: image}
        for operation in self.graph.operations:
            values = [results[name] for name in operation.inputs]
            results[operation.name] = self.steps[operation.name](*values)
        return results


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        return functional.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    return functional.conv2d(functional.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups)


def _per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def _affine(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    if scale is not None:
        x = x * _per_channel(scale, x)
    return x if shift is None else x + _per_channel(shift, x)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.relu(x) + _per_channel(slope, x) * torch.clamp(x, max=0)


def _max_pool(x: Tensor, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    return functional.max_pool2d(x, kernel, stride, padding)


def _average_pool(x: Tensor, *, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    return functional.avg_pool2d(x, kernel, stride)


def _unit_length(x: Tensor) -> Tensor:
    # F.normalize, spelled out: its expand_as would put a Shape and an Expand into the ONNX graph. In float32, whatever
    # comes in: the squares of float16 numbers above 256 are infinite.
    x = x.float()
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(NORM_EPSILON)


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "linear": functional.linear,
    "affine": _affine,  # a factor and a term per channel: batch normalisation, colour normalisation, layer scale
    "relu": torch.relu,
    "clamp": lambda x, *, low, high: torch.clamp(x, low, high),
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "leaky_relu": lambda x, *, slope: functional.leaky_relu(x, slope),
    "prelu": _prelu,
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "scalar": lambda x, *, scale, shift: x * scale + shift,
    "mean": lambda x, *, keep: x.mean((2, 3), keepdim=keep),  # over a channel's positions
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "flatten": lambda x: torch.flatten(x, 1),  # channel by channel
    "spread": lambda x: x[:, :, None, None],  # [b, c] to [b, c, 1, 1]
    "concatenate": lambda *x: torch.cat(x, 1),
    "unit_length": _unit_length,
}

"""Tracing and folding: the graph computes what the network does, and what it cannot express is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.fold import fold
from exporters.graph import Graph, GraphNetwork
from exporters.parity import probe_pixels, reference_embeddings
from exporters.trace import trace
from hetero.errors import ExportError
from hetero.preprocess import PreprocessSpec

sys.path.insert(0, str(Path(__file__).parent))
from networks import NETWORKS, SPEC, family, mixed, residual, unpadded


def run(graph: Graph, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return GraphNetwork(graph)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()


def kinds(graph: Graph) -> list[str]:
    return [operation.kind for operation in graph.operations]


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_equals_the_network_traced_and_folded(name: str) -> None:
    make, spec = NETWORKS[name]
    network = make()
    pixels = probe_pixels((spec.height, spec.width, spec.channels))
    reference = reference_embeddings(network, pixels, spec)
    graph = trace(network, spec)
    assert reference.std(axis=0).min() > 0.01  # the pictures matter
    np.testing.assert_allclose(run(graph, pixels), reference, atol=2e-6)
    np.testing.assert_allclose(run(fold(graph), pixels), reference, atol=2e-6)
    assert len(fold(graph).operations) < len(graph.operations)
    assert graph.dim == reference.shape[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_the_results(name: str) -> None:
    make, spec = NETWORKS[name]
    graph = fold(trace(make(), spec))
    with torch.no_grad():
        results = GraphNetwork(graph).results(torch.zeros(2, spec.channels, spec.height, spec.width))
    assert {o.name: (2, *o.shape) for o in graph.operations} == {
        name: tuple(result.shape) for name, result in results.items() if name != "image"
    }


def test_trace_leaves_the_network_as_it_was() -> None:
    network = mixed().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, SPEC)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_fold_leaves_no_batch_normalisation_and_no_colour_factor() -> None:
    graph = fold(trace(family(), NETWORKS["family"][1]))
    assert [o.name for o in graph.operations if o.kind == "affine"] == ["colour"]
    assert set(graph.operations[0].weights) == {"shift"}  # the first convolution pads, so the mean stays outside


def test_fold_puts_the_whole_colour_normalisation_into_a_first_convolution_without_padding() -> None:
    graph = fold(trace(unpadded(), SPEC))
    assert kinds(graph)[0] == "conv"


def test_fold_keeps_a_normalisation_whose_input_is_read_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (y * self.norm(y)).mean((2, 3))

    torch.manual_seed(2)
    network = Twice()
    network.norm.running_mean.normal_()
    network.eval()
    graph = fold(trace(network, SPEC))
    assert "affine" in kinds(graph)[1:]
    pixels = probe_pixels((16, 12, 3))
    np.testing.assert_allclose(run(graph, pixels), reference_embeddings(network, pixels, SPEC), atol=2e-6)


def test_operations_name_the_module_they_come_from() -> None:
    graph = trace(residual(), SPEC)
    assert [o.module for o in graph.operations if o.kind == "conv"] == ["stem.0", "body.0"]
    assert len({o.name for o in graph.operations}) == len(graph.operations)


def test_unused_operations_are_left_out() -> None:
    class Spare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.tanh(x)
            return x.mean((2, 3))

    assert kinds(trace(Spare(), SPEC)) == ["affine", "mean", "unit_length"]


class Asks(nn.Module):
    """A network whose part ``part`` does what a test says."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = _Part(does)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class _Part(nn.Module):
    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: Tensor) -> Tensor:
        return self.does(x)


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (
            lambda x: functional.gelu(x).mean((2, 3)),
            r"operation gelu in test_trace\.py:131: return self\.does\(x\); fix: use hardswish or silu",
        ),
        (
            lambda x: functional.layer_norm(x, [12]).mean((2, 3)),
            r"operation layer_norm in .*; fix: use batch normalisation",
        ),
        (lambda x: torch.cumsum(x, 1).mean((2, 3)), "operation cumsum in .*; fix: use layers made of convolution"),
        (lambda x: functional.max_pool2d(x, 3, ceil_mode=True).mean((2, 3)), "ceil_mode"),
        (lambda x: functional.max_pool2d(x, 3, dilation=2).mean((2, 3)), "dilated max pooling"),
        (lambda x: functional.avg_pool2d(x, 3, padding=1).mean((2, 3)), "average pooling with padding"),
        (lambda x: functional.adaptive_avg_pool2d(x, 5).flatten(1), r"adaptive pooling of \[16, 12\] to \[5, 5\]"),
        (lambda x: x.mean((1, 2)), r"a mean over dimensions \[1, 2\]"),
        (lambda x: x.mean((2, 3)).mean(0, keepdim=True), "that keep the batch apart"),
        (lambda x: x.reshape(x.size(0), 9, 8, 8).mean((2, 3)), r"a reshape of \[3, 16, 12\] to \[9, 8, 8\]"),
        (lambda x: x.permute(0, 1, 3, 2).mean((2, 3)), "operation permute in .*; fix: use channels first"),
        (lambda x: (1 / x).mean((2, 3)), "operation reciprocal|a division by a result"),
        (lambda x: (x / x.mean((2, 3), keepdim=True)).mean((2, 3)), "divide of two results"),
        (lambda x: torch.add(x, x, alpha=2).mean((2, 3)), "add of two results with alpha=2"),
        (lambda x: (x * torch.ones(12)).mean((2, 3)), r"with weights \[12\] in .*; fix: use one number a channel"),
        (lambda x: functional.linear(x, torch.ones(4, 12)).mean((2, 3)), "a linear layer over the last side"),
        (lambda x: functional.batch_norm(x, None, None, training=True).mean((2, 3)), "with running statistics"),
        (lambda x: torch.sub(torch.ones(3, 1, 1), x, alpha=2).mean((2, 3)), "subtract with alpha=2"),
        (lambda x: (x + torch.rand(3, 1, 1)).mean((2, 3)), "operation rand"),
        (lambda x: torch.cat([x, x], 2).mean((2, 3)), "a concatenation along dimension 2"),
        (lambda x: torch.div(x, 2, rounding_mode="floor").mean((2, 3)), r"operation div\.Tensor_mode"),
        (lambda x: torch.clamp(x, min=torch.zeros(3, 1, 1)).mean((2, 3)), "bounds that are not numbers"),
        (lambda x: (x[:, :1] - torch.ones(1, 3, 1, 1)).mean((2, 3)), "a slice of a result|that makes"),
        (lambda x: x.mean((2, 3)) * x.size(0), "the number of pictures|batch apart"),
        (lambda x: x.double().mean((2, 3)), "a conversion to torch.float64"),
        (lambda x: x.mean((2, 3)) * x.mean(), "keep the batch apart|over dimensions"),
    ],
)
def test_trace_refuses_what_no_format_can_express_and_names_the_module(
    does: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        trace(Asks(does).eval(), SPEC)
    assert "module 'part' (_Part)" in str(caught.value)


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (lambda x: x, r"the network's output is no embedding; got \[3, 16, 12\] a picture"),
        (lambda x: x.mean((2, 3)) if x.mean() > 0 else x.amax((2, 3)), "torch cannot trace this network"),
        (lambda x: torch.ones(3, 4), "a constant"),
    ],
)
def test_trace_refuses_a_network_that_embeds_nothing(does: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        trace(Asks(does).eval(), SPEC)


def test_a_network_that_writes_into_its_input_is_traced() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1), nn.Flatten()).eval()
    pixels = probe_pixels((16, 12, 3))
    np.testing.assert_allclose(
        run(trace(network, SPEC), pixels), reference_embeddings(network, pixels, SPEC), atol=2e-6
    )


def test_a_network_that_counts_its_calls_is_refused_by_the_buffers_name() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return x.mean((2, 3))

    with pytest.raises(ExportError, match=r"changes its own buffers.*got calls"):
        trace(Counts().eval(), SPEC)


@pytest.mark.parametrize("weight", [0.0, 1e-6])
def test_fold_does_not_divide_by_a_channels_factor_of_nearly_nothing(weight: float) -> None:
    torch.manual_seed(4)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.bias)
    norm.weight.data[2] = weight
    layers = (nn.Conv2d(3, 4, 1), nn.ReLU(), norm, nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(768, 5))
    network = nn.Sequential(*layers).eval()
    pixels = probe_pixels((16, 12, 3))
    graph = fold(trace(network, SPEC))
    assert all(
        bool(torch.isfinite(w).all()) and w.abs().max() < 1e3 for o in graph.operations for w in o.weights.values()
    )
    np.testing.assert_allclose(run(graph, pixels), reference_embeddings(network, pixels, SPEC), atol=2e-6)


def test_a_scale_alone_leaves_no_term_behind() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.conv = nn.Parameter(torch.rand(3, 1, 1) + 0.5), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(torch.relu(x) * self.gamma).mean((2, 3))

    assert kinds(fold(trace(Scaled().eval(), SPEC))) == ["affine", "relu", "conv", "mean", "unit_length"]


def test_grey_pictures() -> None:
    spec = PreprocessSpec(height=8, width=8, channels=1, mean=(0.15,), std=(0.3,))
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    pixels = probe_pixels((8, 8, 1))
    np.testing.assert_allclose(
        run(fold(trace(network, spec)), pixels), reference_embeddings(network, pixels, spec), atol=2e-6
    )


def test_graph_gives_zeros_and_not_nan_for_a_zero_vector() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 12, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    assert np.abs(run(fold(trace(network, SPEC)), probe_pixels((16, 12, 3)))).max() == 0

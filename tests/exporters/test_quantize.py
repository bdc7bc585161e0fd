"""Rounded numbers in torch against a slow recomputation, and against the int8 files they stand for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters.bundle import Bundle
from exporters.fold import fold
from exporters.graph import Graph, GraphNetwork
from exporters.layers import layer_errors
from exporters.mixed import fewest_float
from exporters.onnx import to_onnx
from exporters.onnx_int8 import OnnxQuantiser
from exporters.parity import compare
from exporters.quantize import REDUCED, STATIC, WEIGHTS, QuantizedNetwork, Scheme, as_image, observe, rounded_weight
from exporters.tflite import parsed
from exporters.tflite_int8 import TfliteQuantiser
from exporters.trace import trace
from exporters.workers import RuntimeWorker

sys.path.insert(0, str(Path(__file__).parent))
from networks import SPEC, wide
from pictures import smooth


@pytest.fixture(scope="module")
def graph() -> Graph:
    return fold(trace(wide(), SPEC))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return smooth(96, SPEC)


def test_weights_are_rounded_to_127_levels_each_side_of_each_filter() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, 2) * torch.tensor([1.0, 100.0, 1e-3]).reshape(3, 1, 1, 1)
    weight[1] = 0
    found = rounded_weight(weight, 8)
    for row, rounded in zip(weight.numpy(), found.numpy(), strict=True):
        step = np.abs(row).max() / 127
        if step == 0:
            assert not rounded.any()
            continue
        levels = rounded / step
        np.testing.assert_allclose(levels, np.round(row / step), atol=1e-3)
        assert np.abs(levels).max() == pytest.approx(127)


def test_ranges_are_the_extremes_of_every_result_and_hold_zero(graph: Graph, pixels: np.ndarray) -> None:
    ranges = observe(graph, pixels)
    with torch.no_grad():
        everything = GraphNetwork(graph).results(as_image(pixels))
    for name, (low, high) in ranges.items():
        assert low == pytest.approx(min(0.0, float(everything[name].min())), abs=1e-6)
        assert high == pytest.approx(max(0.0, float(everything[name].max())), abs=1e-6)


def test_results_have_at_most_256_values_and_weights_only_leaves_them_alone(graph: Graph, pixels: np.ndarray) -> None:
    ranges = observe(graph, pixels)
    with torch.no_grad():
        rounded = QuantizedNetwork(graph, ranges, STATIC).results(as_image(pixels))
        weights = QuantizedNetwork(graph, {}, WEIGHTS).results(as_image(pixels))
        exact = GraphNetwork(graph).results(as_image(pixels))
    [conv, *_] = [operation.name for operation in graph.operations if operation.kind == "conv"]
    [relu, *_] = [operation.name for operation in graph.operations if operation.kind == "relu"]
    assert len(rounded[relu].unique()) <= 256
    assert len(rounded[conv].unique()) > 256  # its ReLU is rounded, not what no file keeps
    assert len(weights[relu].unique()) > 256
    assert not torch.equal(weights[conv], exact[conv])


def test_what_is_kept_in_float_is_exact(graph: Graph, pixels: np.ndarray) -> None:
    names = [operation.name for operation in graph.operations]
    image = as_image(pixels[:8])
    with torch.no_grad():
        kept = QuantizedNetwork(graph, observe(graph, pixels), STATIC, keep_float=names)(image)
        assert torch.equal(kept, GraphNetwork(graph)(image))


def test_the_emulation_loses_what_the_real_files_lose(
    graph: Graph, pixels: np.ndarray, needs: Callable[[str], ModuleType]
) -> None:
    """Not bit for bit (runtimes fuse and round in other places): within a factor of 2; 4 bits lose 20 times as much."""
    needs("tensorflow")
    image, ranges = as_image(pixels), observe(graph, pixels)
    with torch.no_grad():
        exact = GraphNetwork(graph)(image).numpy()
        emulated = {s: QuantizedNetwork(graph, ranges, s)(image).numpy() for s in (STATIC, REDUCED, Scheme(4, 4))}
    lost = {scheme: 1 - compare(exact, vectors).mean_cosine for scheme, vectors in emulated.items()}
    tflite = TfliteQuantiser(graph, pixels, {}, integer_io=False).convert()[0]
    onnx = OnnxQuantiser(to_onnx(graph, {})[0], pixels).convert()[0]
    for runtime, data, scheme in (("ai-edge-litert", tflite, STATIC), ("onnxruntime", onnx, REDUCED)):
        with RuntimeWorker(runtime) as worker:
            worker.open(data)
            real = 1 - compare(exact, worker.run(pixels)).mean_cosine
        assert 0.5 < real / lost[scheme] < 2, (runtime, real, lost[scheme])
    assert lost[Scheme(4, 4)] > 20 * lost[STATIC]


def spoilt() -> nn.Module:
    """The same function as ``wide()``, one filter of the first layer 300 times too large and undone in the next."""
    network = wide()
    with torch.no_grad():
        network[1].weight[3] *= 300
        network[1].bias[3] *= 300
        network[3].weight[:, 3] /= 300
    return network.eval()


def test_the_layer_that_loses_the_cosine_is_named_first(pixels: np.ndarray) -> None:
    graph = fold(trace(spoilt(), SPEC))
    with torch.no_grad():
        same = GraphNetwork(graph)(as_image(pixels)).numpy()
        assert compare(GraphNetwork(fold(trace(wide(), SPEC)))(as_image(pixels)).numpy(), same).max_abs < 1e-5
    errors = layer_errors(graph, observe(graph, pixels), STATIC, pixels)
    [first, *_] = [operation for operation in graph.operations if operation.kind == "conv"]
    assert errors[0].name == first.name
    assert errors[0].module == "0"
    assert errors[0].mean_cosine < errors[1].mean_cosine - 0.01
    assert [error.mean_cosine for error in errors] == sorted(error.mean_cosine for error in errors)


def test_a_layers_error_is_that_of_rounding_it_alone(graph: Graph, pixels: np.ndarray) -> None:
    """The shortcut over unchanged results, against a whole forward pass."""
    ranges = observe(graph, pixels)
    with torch.no_grad():
        exact = GraphNetwork(graph)(as_image(pixels)).numpy()
        for error in layer_errors(graph, ranges, STATIC, pixels):
            followers = [user.name for user in graph.users(error.name) if user.kind == "relu"]
            network = QuantizedNetwork(graph, ranges, STATIC, only={error.name, *followers})
            again = compare(exact, network(as_image(pixels)).numpy())
            assert error.mean_cosine == pytest.approx(again.mean_cosine, abs=1e-7)


@pytest.mark.parametrize("needed", range(12))
def test_the_fewest_layers_are_kept_in_float(needed: int) -> None:
    layers = [f"layer{number}" for number in range(20)]
    tried: list[int] = []

    def attempt(keep: tuple[str, ...]) -> int:
        assert keep == tuple(layers[: len(keep)])
        tried.append(len(keep))
        return len(keep)

    found = fewest_float(layers, attempt, lambda kept: kept >= needed)
    assert found == (max(1, needed) if needed <= 10 else 10)  # at most half: then the caller sees that it fails
    assert len(tried) <= 8


def test_int8_files_hold_equal_constants_once_and_no_long_names(measured: Bundle) -> None:
    graph = onnx.load_from_string(measured.read("onnx/model.int8.onnx")).graph
    contents = []
    for tensor in graph.initializer:
        name, tensor.name = tensor.name, ""
        contents.append(tensor.SerializeToString(deterministic=True))
        assert len(name) < 6
    assert len(set(contents)) == len(contents)
    assert not graph.value_info
    data = measured.read("tflite/model.int8.tflite")
    model = parsed(data)
    zeros = [
        tensor.quantization.zeroPoint
        for tensor in model.subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.zeroPoint is not None
    ]
    lengths = [len(vector) for vector in zeros if len(vector) > 8 and not any(vector)]
    assert len(lengths) > len(set(lengths)), "no two tensors have equally many channels: nothing is tested"
    for length in set(lengths):
        assert data.count(length.to_bytes(4, "little") + bytes(8 * length)) == 1

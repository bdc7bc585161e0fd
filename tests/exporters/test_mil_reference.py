"""The reference for Core ML files: right where another program can say so, and nothing a forged file could use."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.coreml import operations_of, to_coreml
from exporters.fold import fold
from exporters.graph import GraphNetwork
from exporters.mil_file import read_program
from exporters.mil_reference import OPERATIONS, MilReference, _constants, _dense
from exporters.mlpackage import Package, contents_of, read_archive, write_archive
from exporters.parity import probe_pixels
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.errors import BundleError, RuntimeFailedError
from hetero.preprocess import PreprocessSpec

sys.path.insert(0, str(Path(__file__).parent))
from networks import NETWORKS

SMALL = PreprocessSpec(height=9, width=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
PIXELS = probe_pixels((9, 8, 3))


@pytest.fixture(scope="module", autouse=True)
def coremltools(needs: Callable[[str], ModuleType]) -> ModuleType:
    needs("sklearn")
    return needs("coremltools")


class Elementwise(nn.Module):
    """Bounds of every kind, numbers, a result spread over rows and columns, subtraction, concatenation."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat(
            [x.clamp(min=-0.25), nn.functional.hardtanh(x, -0.5, 0.5), nn.functional.hardtanh(x * 4, 0.0, 6.0)], 1
        )
        y = x.mean((2, 3)).view(x.size(0), -1, 1, 1).squeeze(-1).squeeze(-1)[:, :, None, None]
        z = nn.functional.leaky_relu(x, 0.1) - x.clamp(max=0.75) / 3
        return (nn.functional.hardsigmoid(z) * y.float() + 0.5).flatten(1)


def network(*layers: nn.Module) -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), *layers, nn.Flatten(), nn.LazyLinear(6)).eval()
    made(torch.zeros(1, 3, 9, 8))
    return made


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "elementwise": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Elementwise()).eval(),
    "uneven padding": lambda: network(nn.Conv2d(4, 4, (2, 4), padding="same")),
    "strides, dilation, groups": lambda: network(nn.Conv2d(4, 8, (2, 3), (2, 1), (1, 2), (1, 2), 2, bias=False)),
    "two filters a channel": lambda: network(nn.Conv2d(4, 8, 3, 2, 1, groups=4), nn.SiLU(), nn.Sigmoid()),
    "padded maximum of negatives": lambda: network(nn.MaxPool2d(3, 2, 1), nn.PReLU(4)),
    "colours alone": lambda: nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(18, 6)).eval(),
    "averages": lambda: network(nn.AvgPool2d((2, 3), (1, 2)), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name]()


@functools.cache
def file(name: str, precision: str = "fp32") -> bytes:
    return to_coreml(fold(trace(made(name), SMALL)), precision, {})[0]


@pytest.mark.parametrize("name", LAYERS)
def test_each_operation_means_what_it_means_in_torch(name: str) -> None:
    with torch.no_grad():
        graph = GraphNetwork(fold(trace(made(name), SMALL)))
        expected = graph(torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float()).numpy()
    np.testing.assert_allclose(MilReference(file(name)).run(PIXELS), expected, atol=1e-6)


def test_a_threshold_makes_zeros_of_what_lies_below() -> None:
    """In every file a hard sigmoid of 0 stands beside it, which would hide a mistake."""
    found = OPERATIONS["thresholded_relu"](torch.tensor([-4.0, -3.0, -2.0, 1.0]), alpha=-3.0)
    assert found.tolist() == [0, -3, -2, 1]


def test_every_operation_of_the_table_is_met_in_some_file() -> None:
    """What no test network makes is not known to be right: the exceptions are listed by name."""
    met = {operation.kind for name in LAYERS for operation in read_program(file(name), where="f").operations}
    met |= {operation.kind for operation in read_program(file("averages", "fp16"), where="f").operations}
    for make, spec in NETWORKS.values():
        data, _ = to_coreml(fold(trace(make(), spec)), "fp32", {})
        met |= {operation.kind for operation in read_program(data, where="f").operations}
    assert OPERATIONS.keys() - met == set()


def test_half_precision_rounds_each_result() -> None:
    """One linear layer on one pixel, recomputed step by step in numpy's own half precision."""
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3, 8)).eval()
    spec = PreprocessSpec(height=1, width=1, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    graph = fold(trace(layers, spec))
    [colour, _, linear, _] = graph.operations
    half = {key: value.half().numpy() for key, value in (*colour.weights.items(), *linear.weights.items())}
    pixels = probe_pixels((1, 1, 3))
    x = pixels[:, 0, 0].astype(np.float16)
    x = (x * half["scale"]).astype(np.float16)
    x = (x + half["shift"]).astype(np.float16)
    y = (x.astype(np.float64) @ half["weight"].T.astype(np.float64) + half["bias"]).astype(np.float16)
    expected = y.astype(np.float64) / np.linalg.norm(y.astype(np.float64), axis=1, keepdims=True)
    found = MilReference(to_coreml(graph, "fp16", {})[0]).run(pixels)
    assert (np.abs(found - expected).max(axis=1) < 1e-6).mean() > 0.9  # a sum on the edge may round either way
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["int8w", "palette6"])
def test_dense_weights_equal_those_of_coremltools(precision: str, tmp_path: Path) -> None:
    """Its own loader, which reads the blob file with other code, and its own decompression."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    make, spec = NETWORKS["mixed"]
    data, _ = to_coreml(fold(trace(make(), spec)), precision, {})
    for name, content in contents_of(read_archive(data, where="f")).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model = coremltools.models.MLModel(str(tmp_path / "model.mlpackage"), skip_model_load=True)
    program = load(model.get_spec(), 7, model.weights_dir)
    expected = {
        operation.outputs[0].name: operation.materialized_val_inference()
        for operation in program.functions["main"].operations
        if operation.op_type.startswith("constexpr_")
    }
    found = {operation.result: _dense(operation) for operation in _constants(read_program(data, where="f"))}
    assert found.keys() == expected.keys()
    assert len(found) == 6
    for name, tensor in found.items():
        assert tensor.dtype == torch.float16
        np.testing.assert_array_equal(tensor.numpy(), expected[name])


def test_it_runs_in_a_worker_and_names_what_it_cannot_compute() -> None:
    data = file("averages", "fp16")
    with RuntimeWorker("mil-reference") as worker:
        worker.open(data)
        np.testing.assert_allclose(worker.run(PIXELS), MilReference(data).run(PIXELS), atol=1e-6)
        assert worker.version not in ("", "unknown")
        with pytest.raises(RuntimeFailedError, match=r"mil-reference cannot run this file.*takes other pictures"):
            worker.run(PIXELS[:, :5])
        with pytest.raises(RuntimeFailedError, match=r"mil-reference cannot open this file.*operation .*gelu"):
            worker.open(forged(lambda spec: operation(spec, "tanh", type="gelu")))


def forged(edit: Callable[[Any], object], *, data: bytes | None = None, weights: bytes | None = None) -> bytes:
    """A file whose protobuf was edited by someone who knows the format."""
    from coremltools.proto import Model_pb2

    package = read_archive(data or file("averages", "fp16"), where="f")
    spec = Model_pb2.Model.FromString(package.model)
    edit(spec)
    return write_archive(Package(spec.SerializeToString(), package.weights if weights is None else weights))


def operation(spec: Any, kind: str, **fields: Any) -> Any:
    found = next(item for item in operations_of(spec) if item.type == kind)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def constant(spec: Any, kind: str, argument: str) -> Any:
    """The constant that an operation takes as this argument."""
    name = operation(spec, kind).inputs[argument].arguments[0].name
    return next(item for item in operations_of(spec) if item.outputs[0].name == name)


def resize(value_type: Any, *sides: int) -> None:
    del value_type.tensorType.dimensions[:]
    for side in sides:
        value_type.tensorType.dimensions.add().constant.size = side
    value_type.tensorType.rank = len(sides)


def wide_picture(spec: Any) -> None:
    """Terabytes, declared alike everywhere."""
    side = 1 << 20
    picture = spec.description.input[0].type.imageType
    picture.width = picture.height = side
    resize(spec.mlProgram.functions["main"].inputs[0].type, 1, 3, side, side)
    first = operation(spec, "cast")
    resize(first.outputs[0].type, 1, 3, side, side)


def wide_padding(spec: Any) -> None:
    """A convolution's padding, which the shape of its result does not show where it strides as far."""
    far = 1 << 20
    for argument, values in (("pad", [far, 0, far, 0]), ("strides", [far, far])):
        attribute = constant(spec, "conv", argument).attributes["val"]
        attribute.immediateValue.tensor.ints.values[:] = values
    for name, kind in (("pad_type", "custom"),):
        constant(spec, "conv", name).attributes["val"].immediateValue.tensor.strings.values[:] = [kind]


def lying_constant(spec: Any) -> None:
    attribute = constant(spec, "conv", "bias").attributes["val"]
    resize(attribute.type, 1 << 40)


def other_offset(spec: Any) -> None:
    constant(spec, "conv", "weight").attributes["val"].blobFileValue.offset = 1 << 62


def other_file(spec: Any) -> None:
    constant(spec, "conv", "weight").attributes["val"].blobFileValue.fileName = "@model_path/../../../../dev/zero"


def second_function(spec: Any) -> None:
    spec.mlProgram.functions["more"].CopyFrom(spec.mlProgram.functions["main"])


def earlier_name(spec: Any) -> None:
    operation(spec, "conv").outputs[0].name = "image"


def later_name(spec: Any) -> None:
    operation(spec, "conv").inputs["x"].arguments[0].name = "nowhere"


def other_argument(spec: Any) -> None:
    found = operation(spec, "tanh")
    found.inputs["speed"].CopyFrom(found.inputs["x"])


FORGERIES: dict[str, tuple[Callable[[Any], object], str]] = {
    "unknown operation": (
        lambda spec: operation(spec, "tanh", type="custom_layer"),
        r"has an operation that is not computed here; got 'custom_layer'",
    ),
    "control flow": (
        lambda spec: operation(spec, "tanh").blocks.add(),
        "has an operation 'tanh' with other than one result",
    ),
    "wide picture": (wide_picture, "asks for more memory than any student needs"),
    "wide padding": (wide_padding, "asks for more memory than any student needs"),
    "overflowing result": (
        lambda spec: resize(operation(spec, "tanh").outputs[0].type, 1 << 62, 1 << 62),
        "asks for more memory than any student needs",
    ),
    "lying result": (
        lambda spec: resize(operation(spec, "tanh").outputs[0].type, 1, 4, 9, 9),
        r"has an operation tanh that computes another shape than it declares; got \[1, 4, 9, 8\]",
    ),
    "lying constant": (lying_constant, "has a constant of another length than its shape"),
    "offset": (other_offset, "has a constant outside its weights file"),
    "another file": (other_file, r"has a constant outside its weights file; got .*dev/zero"),
    "weights of another type": (
        lambda spec: setattr(constant(spec, "conv", "weight").attributes["val"].type.tensorType, "dataType", 11),
        "has a constant that its weights file does not hold",
    ),
    "no side": (
        lambda spec: resize(operation(spec, "tanh").outputs[0].type, 1, 0),
        "has a value of a type that no export has",
    ),
    "two results of one name": (earlier_name, "computes two results of one name"),
    "use before": (later_name, "uses a result before it is computed; got 'nowhere'"),
    "another argument": (other_argument, "has an operation tanh that cannot be computed; got .*speed"),
    "second function": (second_function, "has other functions than one"),
    "newer": (lambda spec: setattr(spec, "specificationVersion", 9), r"is no ML program for iOS 16; got '?\(9"),
    "updatable": (lambda spec: setattr(spec, "isUpdatable", True), "is no ML program for iOS 16"),
    "no program": (lambda spec: spec.ClearField("mlProgram"), "is no ML program for iOS 16"),
    "blue first": (
        lambda spec: setattr(spec.description.input[0].type.imageType, "colorSpace", 30),
        "takes no picture of one size",
    ),
    "other input": (
        lambda spec: setattr(spec.description.input[0], "name", "picture"),
        "has other inputs and outputs",
    ),
    "picture of another size": (
        lambda spec: setattr(spec.description.input[0].type.imageType, "width", 7),
        "takes another input than it describes",
    ),
    "half precision out": (
        lambda spec: setattr(spec.description.output[0].type.multiArrayType, "dataType", 65552),
        "gives no single float32 vector",
    ),
    "another dimension": (
        lambda spec: spec.description.output[0].type.multiArrayType.shape.__setitem__(1, 7),
        "computes another embedding than it describes",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_is_refused(name: str) -> None:
    edit, message = FORGERIES[name]
    with pytest.raises(BundleError, match=f"^this file {message}"):
        MilReference(forged(edit))


def test_the_unforged_file_is_not_refused() -> None:
    MilReference(forged(lambda spec: None))


@pytest.mark.parametrize("precision", ["int8w", "palette6"])
def test_compressed_weights_of_another_form_are_refused(precision: str) -> None:
    data = file("averages", precision)
    kind = {"int8w": "constexpr_affine_dequantize", "palette6": "constexpr_lut_to_dense"}[precision]

    def taller(spec: Any) -> None:
        found = operation(spec, kind)
        sides = [side.constant.size for side in found.outputs[0].type.tensorType.dimensions]
        resize(found.outputs[0].type, 1 << 20, *sides[1:])

    def without(spec: Any) -> None:
        found = operation(spec, kind)
        del found.attributes["scale" if precision == "int8w" else "lut"]

    with pytest.raises(BundleError, match=r"cannot be computed|another shape than it declares|asks for more memory"):
        MilReference(forged(taller, data=data))
    with pytest.raises(BundleError, match=f"has other arguments of {kind}"):
        MilReference(forged(without, data=data))


def test_damaged_weights_files_are_refused() -> None:
    for weights in (b"", bytes(64), bytes(1 << 12)):
        with pytest.raises(BundleError, match="has a constant"):
            MilReference(forged(lambda spec: None, weights=weights))


def test_what_is_no_protobuf_is_refused() -> None:
    with pytest.raises(BundleError, match="this file holds no Core ML model"):
        MilReference(write_archive(Package(b"\xff" * 40, b"")))


def test_random_damage_to_the_model_is_refused_or_computed() -> None:
    """Flipped bits give a BundleError or an embedding, never another error."""
    package = read_archive(file("averages", "fp16"), where="f")
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        model = bytearray(package.model)
        model[random.integers(len(model))] ^= 1 << random.integers(8)
        try:
            assert MilReference(write_archive(Package(bytes(model), package.weights))).run(PIXELS[:1]).shape == (1, 6)
        except BundleError:
            refused += 1
    assert 100 < refused < 300

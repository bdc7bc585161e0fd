"""Tiny ONNX models made by hand with onnx.helper, so that no exporter stands between test and file."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.manifest import InputSpec, OutputSpec
from exporters.runtimes import open_bytes
from hetero.errors import BundleError, ConfigError, MissingExtraError

INPUT, OUTPUT = InputSpec(height=2, width=3, channels=1), OutputSpec(dim=6)


def make_model(
    *,
    name: str = "image",
    dtype: int = TensorProto.UINT8,
    shape: tuple[Any, ...] | None = ("batch", 2, 3, 1),
    output: str = "embedding",
    output_dtype: int = TensorProto.FLOAT,
    output_shape: tuple[Any, ...] = ("batch", 6),
    extra_input: bool = False,
) -> onnx.ModelProto:
    """Flattens, casts and divides by a stored 2.0: not unit length, which the runtime does not check."""
    inputs = [helper.make_tensor_value_info(name, dtype, shape)]
    if extra_input:
        inputs.append(helper.make_tensor_value_info("more", dtype, shape))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [name], ["x"], to=output_dtype),
            helper.make_node("Reshape", ["x", "shape"], ["flat"]),
            helper.make_node("Div", ["flat", "two"], [output]),
        ],
        "g",
        inputs,
        [helper.make_tensor_value_info(output, output_dtype, output_shape)],
        [
            numpy_helper.from_array(np.array([-1, output_shape[1]], np.int64), "shape"),
            numpy_helper.from_array(np.array(2, helper.tensor_dtype_to_np_dtype(output_dtype)), "two"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def opened(model: onnx.ModelProto | bytes, **options: Any) -> Any:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return open_bytes(data, INPUT, OUTPUT, where="some.onnx", **options)


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_embed_returns_every_row_in_order_with_a_shorter_last_batch(count: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 2, 3, 1), dtype=np.uint8)
    found = opened(make_model()).embed(pixels, batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, pixels.reshape(count, 6) / 2)


def test_embed_takes_pixels_that_are_not_contiguous() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 1), dtype=np.uint8).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(opened(make_model()).embed(pixels), pixels.reshape(4, 6) / 2)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 2, 3, 1), np.float32),
        np.zeros((1, 3, 2, 1), np.uint8),
        np.zeros((1, 1, 2, 3), np.uint8),
        np.zeros((2, 3, 1), np.uint8),
    ],
)
def test_embed_raises_when_the_pixels_do_not_fit(pixels: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="do not fit the model"):
        opened(make_model()).embed(pixels)


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch size"):
        opened(make_model()).embed(np.zeros((1, 2, 3, 1), np.uint8), batch_size=0)
    with pytest.raises(ConfigError, match="threads"):
        opened(make_model(), threads=0)


def test_threads_reach_the_runtime() -> None:
    assert opened(make_model(), threads=2).session.get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"name": "picture"}, "inputs"),
        ({"dtype": TensorProto.FLOAT}, "inputs"),
        ({"shape": ("batch", 1, 2, 3)}, "inputs"),
        ({"shape": ("batch", "h", 3, 1)}, "inputs"),
        ({"shape": (1, 2, 3, 1), "output_shape": (1, 6)}, "inputs"),
        ({"shape": None}, "inputs"),
        ({"extra_input": True}, "inputs"),
        ({"output": "vector"}, "outputs"),
        ({"output_dtype": TensorProto.DOUBLE}, "outputs"),
        ({"output_shape": ("batch", 3)}, "outputs"),
        ({"output_shape": (1, 6)}, "outputs"),
    ],
)
def test_open_bytes_raises_when_the_signature_is_not_the_declared_one(changes: dict[str, Any], kind: str) -> None:
    with pytest.raises(BundleError, match=f"some.onnx has other {kind}"):
        opened(make_model(**changes))


def test_open_bytes_raises_when_an_operator_is_unknown(capfd: pytest.CaptureFixture[str]) -> None:
    model = make_model()
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(BundleError, match="cannot load"):
        opened(model)
    assert capfd.readouterr() == ("", "")


def test_a_missing_onnxruntime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_model().SerializeToString()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hetero\[onnx\]'"):
        open_bytes(data, INPUT, OUTPUT, where="a.onnx")

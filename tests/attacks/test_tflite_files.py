"""TFLite files that lie about themselves are refused by name, before an interpreter sees a byte of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.tflite_file import tflite_metadata
from hetero.errors import BundleError

HUGE = 1 << 28


@pytest.fixture(scope="module")
def schema(needs: Callable[[str], ModuleType]) -> Any:
    needs("tensorflow")
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


@pytest.fixture(scope="module")
def data(schema: Any) -> bytes:
    """A picture times a stored matrix, with one entry of metadata."""
    model = schema.ModelT()
    model.version, model.description = 3, "made by hand"
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.FULLY_CONNECTED
    model.operatorCodes = [code]
    contents = [None, np.arange(24, dtype=np.float32).view(np.uint8), np.frombuffer(b"value", np.uint8)]
    model.buffers = []
    for content in contents:
        buffer = schema.BufferT()
        buffer.data = content
        model.buffers.append(buffer)
    graph = schema.SubGraphT()
    graph.tensors = [tensor(schema, [1, 6], 0), tensor(schema, [4, 6], 1), tensor(schema, [1, 4], 0)]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator(schema)]
    model.subgraphs = [graph]
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"key", 2
    model.metadata = [entry]
    return packed(model)


def tensor(schema: Any, shape: list[int], buffer: int) -> Any:
    made = schema.TensorT()
    made.shape, made.type, made.buffer, made.name = shape, schema.TensorType.FLOAT32, buffer, "a tensor"
    return made


def operator(schema: Any) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = 0, [0, 1, -1], [2]
    made.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    made.builtinOptions = schema.FullyConnectedOptionsT()
    return made


def packed(model: Any) -> bytes:
    from tensorflow.lite.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def unpacked(data: bytes) -> Any:
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils.convert_bytearray_to_object(bytearray(data))


def read(data: bytes) -> dict[str, bytes]:
    return tflite_metadata(data, where="some.tflite")


def test_an_honest_file_gives_its_metadata(data: bytes) -> None:
    assert read(data) == {"key": b"value"}


def builtin(model: Any, number: int) -> None:
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)


def sparse(schema: Any, model: Any) -> None:
    model.subgraphs[0].tensors[1].sparsity = schema.SparsityParametersT()


def external(schema: Any, model: Any) -> None:
    group = schema.ExternalBufferGroupT()
    group.name = "secret.bin"
    model.externalBufferGroups = [group]


def typed(model: Any, kind: int) -> None:
    model.subgraphs[0].tensors[1].type = kind


def custom(model: Any) -> None:
    model.operatorCodes[0].customCode = "FlexWriteFile"


ATTACKS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "custom operator": (lambda s, m: builtin(m, s.BuiltinOperator.CUSTOM), "no built-in"),
    "custom operator by its name": (lambda s, m: custom(m), "no built-in"),
    "operator that runs a graph": (lambda s, m: builtin(m, s.BuiltinOperator.CALL_ONCE), "runs another graph"),
    "loop": (lambda s, m: builtin(m, s.BuiltinOperator.WHILE), "runs another graph"),
    "StableHLO": (lambda s, m: builtin(m, s.BuiltinOperator.STABLEHLO_COMPOSITE), "operator that no export has"),
    "two graphs": (lambda s, m: m.subgraphs.append(m.subgraphs[0]), "other than one graph"),
    "no graph": (lambda s, m: m.subgraphs.clear(), "other than one graph"),
    "another schema": (lambda s, m: setattr(m, "version", 4), "another schema"),
    "huge picture": (lambda s, m: setattr(m.subgraphs[0].tensors[0], "shape", [HUGE, HUGE]), "absurd amount"),
    "huge result": (lambda s, m: setattr(m.subgraphs[0].tensors[2], "shape", [1, 1 << 29]), "absurd amount"),
    "huge constant": (lambda s, m: setattr(m.subgraphs[0].tensors[1], "shape", [HUGE, 6]), "another length"),
    "negative side": (lambda s, m: setattr(m.subgraphs[0].tensors[0], "shape", [-6, -1]), "no export has"),
    "short constant": (lambda s, m: setattr(m.buffers[1], "data", m.buffers[1].data[:-1]), "another length"),
    "narrow constant": (lambda s, m: typed(m, s.TensorType.INT8), "another length"),
    "strings": (lambda s, m: typed(m, s.TensorType.STRING), "no export has"),
    "sparse": (lambda s, m: sparse(s, m), "sparse, variant or external"),
    "external": (external, "tensors in other files"),
    "external by its place alone": (
        lambda s, m: setattr(m.subgraphs[0].tensors[1], "externalBuffer", 1),
        "sparse, variant or external",
    ),
    "buffer behind the tables": (lambda s, m: setattr(m.buffers[1], "offset", 64), "behind its tables"),
    "tensor without a buffer": (lambda s, m: setattr(m.subgraphs[0].tensors[1], "buffer", 3), "without a buffer"),
    "input before all tensors": (lambda s, m: setattr(m.subgraphs[0].operators[0], "inputs", [-2]), "does not have"),
    "input that is no tensor": (lambda s, m: setattr(m.subgraphs[0], "inputs", [3]), "does not have"),
    "two inputs": (lambda s, m: setattr(m.subgraphs[0], "inputs", [0, 0]), "other inputs and outputs"),
    "no output": (lambda s, m: setattr(m.subgraphs[0], "outputs", []), "other inputs and outputs"),
    "operator on no tensor": (lambda s, m: setattr(m.subgraphs[0].operators[0], "inputs", [0, 99]), "does not have"),
    "result that is left out": (lambda s, m: setattr(m.subgraphs[0].operators[0], "outputs", [-1]), "does not have"),
    "operator of no kind": (lambda s, m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 1), "of no kind"),
    "metadata of no buffer": (lambda s, m: setattr(m.metadata[0], "buffer", 3), "damaged metadata"),
    "metadata twice": (lambda s, m: m.metadata.append(m.metadata[0]), "damaged metadata"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name(name: str, data: bytes, schema: Any) -> None:
    attack, message = ATTACKS[name]
    model = unpacked(data)
    attack(schema, model)
    with pytest.raises(BundleError, match=message):
        read(packed(model))


def test_a_file_cut_off_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(BundleError, match=r"some\.tflite "):
            read(data[:length])


def test_another_mark_is_no_tflite_file(data: bytes) -> None:
    with pytest.raises(BundleError, match="no TFLite file"):
        read(data[:4] + b"TFL4" + data[8:])


@pytest.mark.parametrize("content", [b"", b"1234TFL3", b"\x00" * 64, b"\xff\xff\xff\x7fTFL3" + bytes(64)])
def test_what_is_no_tflite_file_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"no TFLite file|cut off or damaged|damaged table"):
        read(content)


@given(st.data())
def test_no_change_makes_the_reader_fail_in_another_way(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for place, byte in draw.draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)):
        changed[place] = byte
    with contextlib.suppress(BundleError):
        read(bytes(changed))

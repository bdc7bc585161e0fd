"""ONNX files that lie about themselves are refused by name, before a runtime sees a byte of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from exporters.onnx_file import onnx_metadata
from hetero.errors import BundleError

HUGE = 1 << 40


def make_model() -> ModelProto:
    """A picture times a stored matrix, with an attribute that is a tensor."""
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([-1, 6], np.int64))),
            helper.make_node("Reshape", ["image", "shape"], ["flat"], name="stage.location"),
            helper.make_node("MatMul", ["flat", "weight"], ["embedding"], name="location"),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 2, 3))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", 4))],
        [
            numpy_helper.from_array(np.arange(24, dtype=np.float32).reshape(6, 4), "weight"),
            helper.make_tensor("typed", TensorProto.INT64, [3], [1, -2, 3]),
            helper.make_tensor("typed8", TensorProto.INT8, [2], [1, -2]),
            helper.make_tensor("typed32", TensorProto.FLOAT, [2], [1.0, 2.0]),
        ],
        value_info=[helper.make_tensor_value_info("flat", TensorProto.FLOAT, ("batch", 6))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"key": "value", "more": ""})
    onnx.checker.check_model(model)
    return model


DATA = make_model().SerializeToString()


def read(data: bytes) -> dict[str, bytes]:
    return onnx_metadata(data, where="some.onnx")


def test_an_honest_file_gives_its_metadata() -> None:
    assert read(DATA) == {"key": b"value", "more": b""}


def external(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")


def attribute_graph(model: ModelProto) -> None:
    branch = helper.make_graph([], "then", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def attribute_sparse(model: ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="sparse", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.dims.append(HUGE)


def attribute_tensors(model: ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="more", type=AttributeProto.TENSORS)
    external(attribute.tensors.add(data_type=TensorProto.FLOAT, dims=[1]))


def typed(model: ModelProto, numbers: list[float]) -> None:
    del model.graph.initializer[3].float_data[:]
    model.graph.initializer[3].float_data.extend(numbers)


ATTACKS: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "external": (lambda m: external(m.graph.initializer[0]), "tensors in other files"),
    "external in an attribute": (lambda m: external(m.graph.node[0].attribute[0].t), "tensors in other files"),
    "external by its list alone": (
        lambda m: m.graph.initializer[0].external_data.add(key="location", value="weights.bin"),
        "tensors in other files",
    ),
    "external in a list of tensors": (attribute_tensors, "tensors in other files"),
    "external by its place alone": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "tensors in other files",
    ),
    "graph in an operator": (attribute_graph, "a graph in an operator"),
    "sparse attribute": (attribute_sparse, "sparse tensors"),
    "sparse constant": (lambda m: m.graph.sparse_initializer.add().dims.append(HUGE), "sparse tensors"),
    "function": (lambda m: m.functions.add(name="f"), "functions"),
    "training": (lambda m: m.training_info.add(), "training information"),
    "huge constant": (lambda m: m.graph.initializer[0].dims.append(HUGE), "another length than its shape"),
    "negative side": (lambda m: m.graph.initializer[0].dims.append(-1), "no export has"),
    "short constant": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234"), "another length"),
    "two contents": (lambda m: m.graph.initializer[0].float_data.append(1.0), "another length"),
    "typed, too few": (lambda m: typed(m, [1.0]), "another length"),
    "typed, too many": (lambda m: m.graph.initializer[1].int64_data.append(4), "another length"),
    "strings": (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING), "no export has"),
    "huge picture": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", HUGE),
        "absurd amount of memory",
    ),
    "huge result": (
        lambda m: setattr(m.graph.value_info[0].type.tensor_type.shape.dim[1], "dim_value", HUGE),
        "absurd amount of memory",
    ),
    "many large results": (
        lambda m: m.graph.value_info.extend(
            helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, (1 << 28,)) for i in range(2)
        ),
        "absurd amount of memory",
    ),
    "result of strings": (
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.STRING),
        "no export has",
    ),
    "property twice": (lambda m: m.metadata_props.add(key="key", value="other"), "says a thing twice"),
    "no graph": (lambda m: m.ClearField("graph"), "other graphs than one"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name(name: str) -> None:
    attack, message = ATTACKS[name]
    model = make_model()
    attack(model)
    with pytest.raises(BundleError, match=message):
        read(model.SerializeToString())


def test_what_readers_would_merge_is_refused() -> None:
    graph = make_model().graph.SerializeToString()
    with pytest.raises(BundleError, match="other graphs than one"):
        read(DATA + b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph)
    tensor = TensorProto(dims=[6], data_type=TensorProto.FLOAT, raw_data=bytes(24)).SerializeToString()
    tensor += TensorProto(dims=[HUGE]).SerializeToString()  # a reader has [6, HUGE]
    model = make_model()
    attribute = onnx.AttributeProto.FromString(b"\x2a" + bytes([len(tensor)]) + tensor)
    model.graph.node[0].attribute.append(attribute)
    with pytest.raises(BundleError, match="another length than its shape"):
        read(model.SerializeToString())


def message(number: int, content: bytes) -> bytes:
    """A field of a message whose bytes are a message, too; less than 128 of them."""
    return bytes([number << 3 | 2, len(content)]) + content


def with_attribute(attribute: bytes) -> bytes:
    """The model with one attribute more, byte for byte this."""
    model = make_model()
    raw = model.graph.node[0].SerializeToString() + message(5, attribute)
    rest = [node.SerializeToString() for node in model.graph.node[1:]]
    del model.graph.node[:]
    graph = model.graph.SerializeToString() + b"".join(message(1, node) for node in (raw, *rest))
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph


def test_of_two_tensors_in_one_attribute_none_is_read() -> None:
    """A reader would merge them: the type and numbers of the one, the shape of both."""
    tensor = TensorProto(dims=[6], data_type=TensorProto.FLOAT, raw_data=bytes(24)).SerializeToString()
    twice = message(5, tensor) + message(5, TensorProto(dims=[0], data_type=TensorProto.FLOAT).SerializeToString())
    assert list(AttributeProto.FromString(twice).t.dims) == [6, 0]
    with pytest.raises(BundleError, match="says a thing twice"):
        read(with_attribute(twice))


def test_a_tensor_of_two_types_is_refused() -> None:
    tensor = TensorProto(dims=[6], data_type=TensorProto.INT8, raw_data=bytes(6)).SerializeToString()
    tensor += TensorProto(data_type=TensorProto.FLOAT).SerializeToString()  # a reader takes the last
    with pytest.raises(BundleError, match="no export has"):
        read(with_attribute(message(5, tensor)))


def test_fields_that_nobody_knows_are_skipped_whatever_their_type() -> None:
    unknown = bytes([15 << 3 | 1]) + bytes(8) + bytes([15 << 3 | 5]) + bytes(4) + bytes([15 << 3, 0x80, 0x01])
    assert read(unknown + DATA) == read(DATA)
    with pytest.raises(BundleError, match="a number without an end"):
        read(bytes([15 << 3, *[0x80] * 10, 0x01]) + DATA)


def test_a_file_cut_off_anywhere_is_refused_or_the_rest_is_a_whole_file() -> None:
    refused = 0
    for length in range(len(DATA)):
        try:
            read(DATA[:length])
        except BundleError:
            refused += 1
    assert refused > 0.9 * len(DATA)  # what remains where only metadata are missing is a whole file, too


@pytest.mark.parametrize(
    "data", [b"", b"not a protobuf", b"\x00" * 64, b"\xff" * 64, b"\x3b", b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"no ONNX file|cut off or damaged|other graphs than one"):
        read(data)


@given(st.integers(0, len(DATA) - 1), st.integers(0, 255), st.binary(max_size=8))
def test_no_change_makes_the_reader_fail_in_another_way(place: int, byte: int, more: bytes) -> None:
    changed = DATA[:place] + bytes([byte]) + more + DATA[place + 1 :]
    with contextlib.suppress(BundleError):
        read(changed)

"""Read an archived Core ML package into plain records, distrusting every number in it.

Protobuf and blob file are read here, not by coremltools' own loader: that one computes operations on constants while it
loads, at whatever size the file asks for. Nothing here is larger than the file itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.mlpackage import Package, read_archive
from hetero.errors import BundleError

SPECIFICATION = 7  # of iOS 16 and macOS 13
OPSET = "CoreML6"
IMAGE, EMBEDDING = "image", "embedding"  # what every export calls its input and output
_WEIGHTS = "@model_path/weights/weight.bin"
_COLOURS = {10: 1, 20: 3}  # GRAYSCALE, RGB of Core ML's ColorSpace
_FLOAT32_ARRAY = 65568  # of Core ML's ArrayDataType
# Of MIL's DataType; a blob file has numbers of its own for some of them.
DTYPES = {1: "bool", 2: "str", 10: "float16", 11: "float32", 21: "int8", 23: "int32", 31: "uint8", 33: "uint32"}
_BLOB_TYPES = {"float16": 1, "float32": 2, "uint8": 3, "int8": 4}
_BLOB = struct.Struct("<IIQQ")  # mark, type, bytes, where they begin; 64 bytes with what is reserved
_BLOB_MARK, _BLOB_BYTES = 0xDEADBEEF, 64

Value = np.ndarray | str


@dataclass(frozen=True)
class Name:
    """An earlier operation's result."""

    name: str


@dataclass(frozen=True)
class MilOperation:
    """One operation: its arguments are constants, results of earlier ones, or lists of these."""

    kind: str
    arguments: Mapping[str, Value | Name | list[Value | Name]]
    result: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def names(self) -> set[str]:
        """The results that it is computed from."""
        values = [part for value in self.arguments.values() for part in (value if isinstance(value, list) else [value])]
        return {value.name for value in values if isinstance(value, Name)}


@dataclass(frozen=True)
class MilProgram:
    """A picture ``[1, c, h, w]`` in 0..255 in, an embedding ``[1, dim]`` out; the operations are in order."""

    shape: tuple[int, int, int]  # channels, height, width
    dim: int
    operations: tuple[MilOperation, ...]

    @property
    def signature(self) -> dict[str, Any]:
        """How the file takes pictures and gives embeddings, for :func:`exporters.signature.require_signature`."""
        channels, height, width = self.shape
        return {
            "input": {"name": IMAGE, "dtype": "image", "shape": [1, height, width, channels]},
            "output": {"name": EMBEDDING, "dtype": "float32", "shape": [1, self.dim]},
        }


def read_program(data: bytes, *, where: str) -> MilProgram:
    """The ML program in an archive from :func:`exporters.mlpackage.write_archive`.

    Raises:
        BundleError: the archive, the protobuf or a number in them is not what such a file has; ``where`` names it.
    """
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    package = read_archive(data, where=where)
    try:
        spec = Model_pb2.Model.FromString(package.model)
    except DecodeError as error:
        raise refusal(where, "holds no Core ML model", error) from error
    return _Reader(package, where).program(spec)


def refusal(where: str, what: str, got: object, expected: object = None) -> BundleError:
    """The error for a file that is not as it must be."""
    return BundleError(f"{where} {what}", got=ascii(got)[:300], expected=expected, fix="export the bundle again")


class _Reader:
    def __init__(self, package: Package, where: str) -> None:
        self.package, self.where = package, where

    def refuse(self, what: str, got: object, expected: object = None) -> BundleError:
        return refusal(self.where, what, got, expected)

    def program(self, spec: Any) -> MilProgram:
        found = spec.specificationVersion, spec.isUpdatable, spec.WhichOneof("Type")
        if found != (SPECIFICATION, False, "mlProgram"):
            raise self.refuse("is no ML program for iOS 16", found, (SPECIFICATION, False, "mlProgram"))
        shape, dim = self.description(spec.description)
        functions = spec.mlProgram.functions
        blocks = functions["main"].block_specializations if list(functions) == ["main"] else {}
        if list(blocks) != [OPSET] or functions["main"].opset != OPSET:
            raise self.refuse(
                "has other functions than one",
                {name: list(functions[name].block_specializations) for name in functions},
            )
        inputs = [(item.name, *self.type(item.type)) for item in functions["main"].inputs]
        if inputs != [(IMAGE, "float32", (1, *shape))] or list(blocks[OPSET].inputs):
            raise self.refuse("takes another input than it describes", inputs, [(IMAGE, "float32", (1, *shape))])
        if list(blocks[OPSET].outputs) != [EMBEDDING]:
            raise self.refuse("gives another output than it describes", list(blocks[OPSET].outputs), [EMBEDDING])
        return MilProgram(shape, dim, self.operations(blocks[OPSET]))

    def description(self, description: Any) -> tuple[tuple[int, int, int], int]:
        """The picture's shape and the embedding's dimension, from what Core ML shows to an app."""
        inputs, outputs = list(description.input), list(description.output)
        names = [item.name for item in inputs], [item.name for item in outputs]
        if names != ([IMAGE], [EMBEDDING]) or list(description.functions) or list(description.state):
            raise self.refuse("has other inputs and outputs", names, ([IMAGE], [EMBEDDING]))
        picture, vector = inputs[0].type.imageType, outputs[0].type.multiArrayType
        colours = _COLOURS.get(picture.colorSpace)
        if colours is None or picture.WhichOneof("SizeFlexibility") is not None:
            raise self.refuse("takes no picture of one size", str(inputs[0].type), "RGB or GRAYSCALE of one size")
        found = vector.dataType, list(vector.shape)[:1], len(vector.shape)
        if found != (_FLOAT32_ARRAY, [1], 2) or vector.WhichOneof("ShapeFlexibility") is not None:
            raise self.refuse("gives no single float32 vector", str(outputs[0].type), "FLOAT32 [1, dim]")
        return (colours, int(picture.height), int(picture.width)), int(vector.shape[1])

    def operations(self, block: Any) -> tuple[MilOperation, ...]:
        """The block's operations; constants become values of those that use them."""
        values: dict[str, Value | Name] = {IMAGE: Name(IMAGE)}
        found = []
        for item in block.operations:
            if len(item.outputs) != 1 or list(item.blocks):
                raise self.refuse(f"has an operation {item.type!a} with other than one result", len(item.outputs), 1)
            [output] = item.outputs
            if output.name in values:
                raise self.refuse("computes two results of one name", output.name)
            dtype, shape = self.type(output.type)
            if item.type == "const":
                values[output.name] = self.value(item.attributes["val"])
                continue
            arguments: dict[str, Value | Name | list[Value | Name]] = {
                key: self.value(value) for key, value in item.attributes.items() if key != "name"
            }
            for key, argument in item.inputs.items():
                parts = [self.bound(part, values) for part in argument.arguments]
                arguments[key] = parts[0] if len(parts) == 1 else parts
            found.append(MilOperation(item.type, arguments, output.name, dtype, shape))
            values[output.name] = Name(output.name)
        return tuple(found)

    def bound(self, binding: Any, values: Mapping[str, Value | Name]) -> Value | Name:
        if binding.WhichOneof("binding") == "value":
            return self.value(binding.value)
        if binding.name not in values:
            raise self.refuse("uses a result before it is computed", binding.name)
        return values[binding.name]

    def type(self, value_type: Any) -> tuple[str, tuple[int, ...]]:
        """Type and shape; each side is a constant."""
        tensor = value_type.tensorType
        sides = tuple(int(side.constant.size) for side in tensor.dimensions)
        constant = all(side.WhichOneof("dimension") == "constant" for side in tensor.dimensions)
        if tensor.dataType not in DTYPES or not constant or len(sides) != tensor.rank or min(sides, default=1) < 1:
            raise self.refuse("has a value of a type that no export has", str(value_type))
        return DTYPES[tensor.dataType], sides

    def value(self, value: Any) -> Value:
        """A constant; as many numbers as its shape says must be there before there is an array."""
        dtype, shape = self.type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            content = self.blob(value.blobFileValue, dtype, shape)
        else:
            tensor = value.immediateValue.tensor
            kind = tensor.WhichOneof("value")
            content = getattr(tensor, kind).values if kind else b""
        if dtype == "str":
            if shape or len(content) != 1 or not isinstance(content[0], str):
                raise self.refuse("has a string of another form", str(value))
            return content[0]
        count = math.prod(shape)
        length = len(content) // np.dtype(dtype).itemsize if isinstance(content, bytes) else len(content)
        excess = len(content) % np.dtype(dtype).itemsize if isinstance(content, bytes) else 0
        if length != count or excess:
            raise self.refuse("has a constant of another length than its shape", length, f"{count} for {list(shape)}")
        if isinstance(content, bytes):
            return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
        try:
            return np.array(list(content)).astype(dtype).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.refuse("has a constant of another type than it says", error, dtype) from error

    def blob(self, place: Any, dtype: str, shape: tuple[int, ...]) -> bytes:
        """A constant's bytes in the weights file."""
        weights, offset = self.package.weights, int(place.offset)
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize if dtype in _BLOB_TYPES else -1
        header = weights[offset : offset + _BLOB_BYTES]
        if place.fileName != _WEIGHTS or len(header) != _BLOB_BYTES:
            raise self.refuse("has a constant outside its weights file", (place.fileName, offset), _WEIGHTS)
        mark, kind, length, start = _BLOB.unpack_from(header)
        expected = _BLOB_MARK, _BLOB_TYPES.get(dtype), size_bytes
        if (mark, kind, length) != expected:
            raise self.refuse(
                "has a constant that its weights file does not hold", (mark, kind, length, start), expected
            )
        return weights[start : start + length]  # less, where the file ends before: refused by its length

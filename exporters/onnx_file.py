"""Look through an ONNX file before a runtime opens it, distrusting every number in it.

Read here by hand, after onnx.proto and protobuf's "Encoding": phone labs have neither package. Readers merge a single
field that is there twice; here it is refused, so that what is checked is what is run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from exporters.manifest import MAX_FILE_BYTES
from hetero.errors import BundleError

# Bytes of a number, by TensorProto.DataType: floats, integers and truth values; no strings, no complex numbers.
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_FIXED_SLOTS, _VARINT_SLOTS = {4: 4, 10: 8}, (5, 7, 11)  # fields of a tensor that hold its numbers, if not its bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_FOREIGN_MODEL = {20: "training information", 25: "functions", 26: "a device configuration"}
_FOREIGN_GRAPH = {15: "sparse tensors"}
_FOREIGN_ATTRIBUTE = {
    6: "a graph in an operator",
    11: "graphs in an operator",
    22: "sparse tensors",
    23: "sparse tensors",
}

Fields = dict[int, list[int | bytes]]


def onnx_metadata(data: bytes, *, where: str) -> dict[str, bytes]:
    """The metadata properties of an ONNX file, by name, once the file is known to be one plain graph with all in it.

    Plain: no tensors in other files, no functions or graphs inside operators, constants of exactly the length of their
    shape, no shape whose size is absurd.

    Args:
        where: names the file in errors.

    Raises:
        BundleError: it is not.
    """
    return _Reader(where).model(data)


class _Reader:
    def __init__(self, where: str) -> None:
        self.where = where

    def refuse(self, what: str, got: object, expected: object = None) -> BundleError:
        fix = "export the bundle again"
        return BundleError(f"{self.where} {what}", got=ascii(got)[:300], expected=expected, fix=fix)

    def model(self, data: bytes) -> dict[str, bytes]:
        model = self.fields(data)
        self.require_none(model, _FOREIGN_MODEL)
        graph = self.fields(self.single(model, 7, "graphs"))
        self.require_none(graph, _FOREIGN_GRAPH)
        for node in self.messages(graph, 1):
            for attribute in self.messages(node, 5):
                self.require_none(attribute, _FOREIGN_ATTRIBUTE)
                for tensor in [*self.messages(attribute, 5, at_most=1), *self.messages(attribute, 10)]:
                    self.tensor(tensor)
        for tensor in self.messages(graph, 5):
            self.tensor(tensor)
        values = [value for slot in (11, 12, 13) for value in self.messages(graph, slot)]
        total = sum(self.value_bytes(value) for value in values)
        if total > MAX_FILE_BYTES:
            raise self.refuse("asks for an absurd amount of memory", f"{total} bytes", f"{MAX_FILE_BYTES} at most")
        entries = [
            (self.single(entry, 1, "names"), self.single(entry, 2, "values")) for entry in self.messages(model, 14)
        ]
        if len(dict(entries)) != len(entries):
            raise self.refuse("says a thing twice", [key for key, _ in entries], "each metadata property once")
        return {key.decode("utf-8", "replace"): value for key, value in entries}

    def tensor(self, tensor: Fields) -> None:
        """A constant, whose numbers must all be here."""
        if 13 in tensor or any(tensor.get(14, ())):
            raise self.refuse("refers to tensors in other files", "external data", "one file that holds everything")
        sides, kind = self.numbers(tensor, 1), [self.whole(value) for value in tensor.get(2, ())]
        if len(kind) != 1 or kind[0] not in _ITEM_BYTES or min(sides, default=0) < 0:
            raise self.refuse("has a tensor that no export has", f"type {kind}, shape {sides}")
        count, size = math.prod(sides), _ITEM_BYTES[kind[0]]
        single = sum(len(self.numbers(tensor, slot)) for slot in _VARINT_SLOTS)
        for slot, width in _FIXED_SLOTS.items():
            single += sum(len(value) // width for value in tensor.get(slot, ()) if isinstance(value, bytes))
        raw = len(self.single(tensor, 9, "contents")) if 9 in tensor else 0
        if (raw, single) not in ((count * size, 0), (0, count)):
            found = f"{raw} bytes" if raw else f"{single} numbers"
            raise self.refuse("has a constant of another length than its shape", found, f"{count} numbers for {sides}")

    def value_bytes(self, value: Fields) -> int:
        """What a result would take at a batch of one; sides that are free count as one."""
        total = 0
        for type_ in self.messages(value, 2, at_most=1):
            for tensor in self.messages(type_, 1, at_most=1):
                kinds = [self.whole(kind) for kind in tensor.get(1, ())]
                sides = [1]
                for shape in self.messages(tensor, 2, at_most=1):
                    for side in self.messages(shape, 1):
                        sides += [self.whole(number) for number in side.get(1, ())]
                if min(sides) < 0 or any(kind not in _ITEM_BYTES for kind in kinds):
                    raise self.refuse("has a value that no export has", f"type {kinds}, shape {sides[1:]}")
                total += math.prod(sides) * max((_ITEM_BYTES[kind] for kind in kinds), default=1)
        return total

    def require_none(self, message: Fields, foreign: dict[int, str]) -> None:
        for number, what in foreign.items():
            if number in message:
                raise self.refuse("has parts that no export has", what)

    def single(self, message: Fields, number: int, what: str) -> bytes:
        found = message.get(number, [])
        if len(found) != 1 or not isinstance(found[0], bytes):
            raise self.refuse(f"has other {what} than one", len(found), 1)
        return found[0]

    def messages(self, message: Fields, number: int, *, at_most: int | None = None) -> Iterator[Fields]:
        values = message.get(number, [])
        if at_most is not None and len(values) > at_most:  # readers would merge them
            raise self.refuse("says a thing twice", f"field {number}, {len(values)} times", at_most)
        for value in values:
            if not isinstance(value, bytes):
                raise self.refuse("is no ONNX file", f"field {number} is a number", "a message")
            yield self.fields(value)

    def whole(self, value: int | bytes) -> int:
        """A signed 64-bit number."""
        if isinstance(value, bytes):
            raise self.refuse("is no ONNX file", "bytes", "a number")
        value &= (1 << 64) - 1
        return value - (1 << 64) if value >> 63 else value

    def numbers(self, message: Fields, number: int) -> list[int]:
        """Numbers of a repeated field, packed or not."""
        found = []
        for value in message.get(number, ()):
            if isinstance(value, int):
                found.append(self.whole(value))
                continue
            place = 0
            while place < len(value):
                item, place = self.varint(value, place)
                found.append(self.whole(item))
        return found

    def fields(self, data: bytes) -> Fields:
        """The fields of a message in the order in which they stand, by number."""
        found: Fields = defaultdict(list)
        place = 0
        while place < len(data):
            key, place = self.varint(data, place)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, place = self.varint(data, place)
                found[number].append(value)
                continue
            if kind == _BYTES:
                length, place = self.varint(data, place)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise self.refuse("is no ONNX file", f"a field of wire type {kind}", "0, 1, 2 or 5")
            if place + length > len(data):
                raise self.refuse("is cut off or damaged", f"{length} bytes at {place}", f"{len(data)} bytes")
            found[number].append(data[place : place + length])
            place += length
        return dict(found)

    def varint(self, data: bytes, place: int) -> tuple[int, int]:
        """A number, and where it ends."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            if place + index >= len(data):
                break
            byte = data[place + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, place + index + 1
        raise self.refuse("is cut off or damaged", f"a number without an end at {place}")

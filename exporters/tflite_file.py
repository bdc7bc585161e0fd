"""Look through a TFLite file before a runtime opens it, distrusting every number in it.

The interpreters trust offsets and sizes in a file, and allocate what it asks for. Read here by hand: the flatbuffers
package has no verifier for Python, and phone labs have no TensorFlow. The layout is of FlatBuffers' "Internals" and of
TensorFlow's schema.fbs, version 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from exporters.manifest import MAX_FILE_BYTES
from hetero.errors import BundleError

MARK = b"TFL3"
_VERSION = 3
# Bytes of a number, by TensorType: float32, float16, int32, uint8, int64, bool, int16, int8. Exports have no others.
_ITEM_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1}
# Of BuiltinOperator: what is no built-in, those that run a subgraph, and the last before StableHLO's.
_CUSTOM = 32
_CALLS = {31: "CALL", 118: "IF", 119: "WHILE", 129: "CALL_ONCE"}
_LAST = 161
_EXTERNAL = (8, 9)  # fields of a model: groups of buffers in other files, and the buffers
_UNUSUAL = (6, 9, 10)  # fields of a tensor: sparsity, variants, an external buffer


def tflite_metadata(data: bytes, *, where: str) -> dict[str, bytes]:
    """The metadata entries of a TFLite file, by name, once the file is known to be sound.

    Sound: each table, vector and string lies inside the file; one subgraph, one input and one output; operators that
    every interpreter has, on tensors that exist; constants of exactly the length of their shape; no tensor whose size
    is absurd.

    Args:
        where: names the file in errors.

    Raises:
        BundleError: it is not sound.
    """
    return _Reader(data, where).metadata()


@dataclass(frozen=True)
class _Table:
    """A table: ``fields`` are where its fields lie, 0 where one is left out."""

    reader: _Reader
    fields: tuple[int, ...]

    def at(self, slot: int) -> int:
        return self.fields[slot] if slot < len(self.fields) else 0

    def number(self, slot: int, form: str, default: int = 0) -> int:
        place = self.at(slot)
        return int(self.reader.unpack(form, place)[0]) if place else default

    def numbers(self, slot: int, form: str) -> tuple[int, ...]:
        place = self.at(slot)
        if not place:
            return ()
        start, count = self.reader.vector(place)
        return self.reader.unpack(f"{count}{form}", start)

    def data(self, slot: int) -> bytes:
        place = self.at(slot)
        if not place:
            return b""
        start, count = self.reader.vector(place)
        self.reader.require_inside(start, count)
        return self.reader.content[start : start + count]

    def tables(self, slot: int) -> Iterator[_Table]:
        place = self.at(slot)
        if place:
            start, count = self.reader.vector(place)
            self.reader.require_inside(start, 4 * count)
            for index in range(count):
                yield self.reader.table(start + 4 * index)


class _Reader:
    def __init__(self, content: bytes, where: str) -> None:
        self.content, self.where = content, where

    def refuse(self, what: str, got: object, expected: object = None) -> BundleError:
        fix = "export the bundle again"
        return BundleError(f"{self.where} {what}", got=ascii(got)[:300], expected=expected, fix=fix)

    def require_inside(self, start: int, length: int) -> None:
        if start < 0 or start + length > len(self.content):
            raise self.refuse(
                "is cut off or damaged", f"something at bytes {start} to {start + length}", f"{len(self.content)} bytes"
            )

    def unpack(self, form: str, place: int) -> tuple[int, ...]:
        form = "<" + form
        self.require_inside(place, struct.calcsize(form))
        return struct.unpack_from(form, self.content, place)

    def table(self, place: int) -> _Table:
        """The table that the offset at ``place`` leads to."""
        start = place + self.unpack("I", place)[0]
        layout = start - self.unpack("i", start)[0]
        layout_bytes, table_bytes = self.unpack("2H", layout)
        if layout_bytes < 4 or layout_bytes % 2:
            raise self.refuse("has a damaged table", f"a layout of {layout_bytes} bytes", "4 or more, by twos")
        self.require_inside(start, table_bytes)
        offsets = self.unpack(f"{layout_bytes // 2 - 2}H", layout + 4)
        return _Table(self, tuple(start + offset if offset else 0 for offset in offsets))

    def vector(self, place: int) -> tuple[int, int]:
        """Where the elements of the vector that the offset at ``place`` leads to begin, and how many they are."""
        start = place + self.unpack("I", place)[0]
        return start + 4, self.unpack("I", start)[0]

    def metadata(self) -> dict[str, bytes]:
        if self.content[4:8] != MARK:
            raise self.refuse("is no TFLite file", self.content[:8], f"{MARK!r} at byte 4")
        model = self.table(0)
        if model.number(0, "I") != _VERSION:
            raise self.refuse("has another schema", model.number(0, "I"), _VERSION)
        codes = list(model.tables(1))
        self.require_operators(codes)
        if any(model.at(slot) for slot in _EXTERNAL):
            raise self.refuse("keeps tensors in other files", "external buffers", "one file that holds everything")
        buffers = [self.buffer(table) for table in model.tables(4)]
        graphs = list(model.tables(2))
        if len(graphs) != 1:
            raise self.refuse("has other than one graph", len(graphs), 1)
        self.require_graph(graphs[0], buffers, len(codes))
        entries = [(table.data(0).decode("latin-1"), table.number(1, "I")) for table in model.tables(6)]
        if len(dict(entries)) != len(entries) or any(index >= len(buffers) for _, index in entries):
            raise self.refuse("has damaged metadata", entries, f"each name once, {len(buffers)} buffers")
        return {name: buffers[index] for name, index in entries}

    def require_operators(self, codes: list[_Table]) -> None:
        for code in codes:
            kind = max(code.number(0, "b"), code.number(3, "i"))
            if kind == _CUSTOM or code.data(1):
                raise self.refuse("has an operator that is no built-in", code.data(1), "built-in operators")
            if kind in _CALLS:
                raise self.refuse("has an operator that runs another graph", _CALLS[kind], "one graph")
            if not 0 <= kind <= _LAST:
                raise self.refuse("has an operator that no export has", f"number {kind}", f"0 to {_LAST}")

    def buffer(self, table: _Table) -> bytes:
        if table.number(1, "Q") or table.number(2, "Q"):
            raise self.refuse("keeps a buffer behind its tables", table.number(1, "Q"), "all data inside them")
        return table.data(0)

    def require_graph(self, graph: _Table, buffers: list[bytes], num_codes: int) -> None:
        sizes = [self.tensor(table, buffers) for table in graph.tables(0)]
        if sum(sizes) > MAX_FILE_BYTES:
            raise self.refuse("asks for an absurd amount of memory", f"{sum(sizes)} bytes", f"{MAX_FILE_BYTES} at most")
        inputs, outputs = graph.numbers(1, "i"), graph.numbers(2, "i")
        if (len(inputs), len(outputs)) != (1, 1):
            raise self.refuse("has other inputs and outputs", (len(inputs), len(outputs)), "one of each")
        used = [*inputs, *outputs]
        for operator in graph.tables(3):
            if operator.number(0, "I") >= num_codes:
                raise self.refuse("has an operator of no kind", operator.number(0, "I"), f"below {num_codes}")
            if operator.at(4):
                self.table(operator.at(4))
            used += [index for index in operator.numbers(1, "i") if index != -1]  # -1: an input that is left out
            used += operator.numbers(2, "i")
        wrong = [index for index in used if not 0 <= index < len(sizes)]
        if wrong:
            raise self.refuse("uses a tensor that it does not have", wrong[0], f"0 to {len(sizes) - 1}")

    def tensor(self, table: _Table, buffers: list[bytes]) -> int:
        """The tensor's bytes: in the file exactly as many if it is a constant, to be allocated if not."""
        shape, kind, index = table.numbers(0, "i"), table.number(1, "b"), table.number(2, "I")
        if kind not in _ITEM_BYTES or min(shape, default=0) < 0:
            raise self.refuse("has a tensor that no export has", f"type {kind}, shape {list(shape)}")
        if any(table.at(slot) for slot in _UNUSUAL):
            raise self.refuse("has a tensor that no export has", "sparse, variant or external", "a dense one")
        size_bytes = math.prod(shape) * _ITEM_BYTES[kind]
        if index >= len(buffers):
            raise self.refuse("has a tensor without a buffer", index, f"below {len(buffers)}")
        if buffers[index] and len(buffers[index]) != size_bytes:
            raise self.refuse(
                "has a constant of another length than its shape",
                f"{len(buffers[index])} bytes",
                f"{size_bytes} for {list(shape)}",
            )
        return size_bytes

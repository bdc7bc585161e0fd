"""TFLite Model Metadata: what libraries such as MediaPipe want to know of a file before they feed pictures to it.

A flatbuffer of its own, kept in the model file's metadata under the name ``TFLITE_METADATA``, its identifier ``M001``.
Written slot by slot: the schema's Python classes come with MediaPipe, which is large and needed nowhere else.

Source: ``metadata_schema.fbs`` of MediaPipe; the numbers below are the positions of the fields in its tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_MIN_PARSER_VERSION = "1.0.0"  # no field that came later is used
_IMAGE_PROPERTIES = 2  # in the union ContentProperties
_NORMALIZATION = 1  # in the union ProcessUnitOptions
_RGB = 1


def rgb_metadata(height: int, width: int, *, mean: float, std: float) -> bytes:
    """The metadata of a file that takes one RGB picture, float32 ``[1, height, width, 3]``, and gives one embedding.

    Args:
        mean, std: a reader fills the input with ``(byte − mean) / std``.
    """
    import flatbuffers  # comes with TensorFlow

    builder = flatbuffers.Builder(512)
    size = _table(builder, 2, {0: ("Uint32", width), 1: ("Uint32", height)})
    properties = _table(builder, 2, {0: ("Int8", _RGB), 1: size})
    content = _table(builder, 3, {0: ("Uint8", _IMAGE_PROPERTIES), 1: properties})
    options = _table(builder, 2, {0: _floats(builder, [mean]), 1: _floats(builder, [std])})
    unit = _table(builder, 2, {0: ("Uint8", _NORMALIZATION), 1: options})
    image = _named(builder, "image", "The picture, RGB, 0 to 255.", {3: content, 4: _offsets(builder, [unit])})
    embedding = _named(builder, "embedding", "The picture's embedding, of length 1.", {})
    graph = _table(builder, 10, {2: _offsets(builder, [image]), 3: _offsets(builder, [embedding])})
    name, version = builder.CreateString("hetero query model"), builder.CreateString(_MIN_PARSER_VERSION)
    model = _table(builder, 8, {0: name, 3: _offsets(builder, [graph]), 7: version})
    builder.Finish(model, _IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: Any, slots: int, fields: dict[int, int | tuple[str, int]]) -> int:
    """A table with ``slots`` fields; each given one is the offset of an object or a number with its type."""
    builder.StartObject(slots)
    for slot, value in fields.items():
        if isinstance(value, tuple):
            kind, number = value
            getattr(builder, f"Prepend{kind}Slot")(slot, number, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(builder.EndObject())


def _named(builder: Any, name: str, description: str, fields: dict[int, int | tuple[str, int]]) -> int:
    """A TensorMetadata."""
    texts = {0: builder.CreateString(name), 1: builder.CreateString(description)}
    return _table(builder, 7, {**texts, **fields})


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


def _offsets(builder: Any, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return int(builder.EndVector())

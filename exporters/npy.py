"""Arrays as ``.npy`` files (version 1.0, row-major) whose type and shape are known beforehand."""

from __future__ import annotations

import ast
import io
import math

import numpy as np

_NPY_1_0 = b"\x93NUMPY\x01\x00"


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the file that :func:`parse_npy` reads."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def parse_npy(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of this type and shape in a file's bytes.

    Not with numpy.load: its header parser raises more kinds of errors than it documents, and an array that a header
    merely claims would be allocated. What numpy.save writes is read alike by both.

    Raises:
        ValueError: it is anything else; says what was found and what was expected.
    """
    expected = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
    start = 10 + int.from_bytes(data[8:10], "little")
    try:
        header = ast.literal_eval(data[10:start].decode("latin-1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:  # as its documentation lists
        header = type(error).__name__
    size_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    if data[:8] != _NPY_1_0 or header != expected or len(data) - start != size_bytes:
        found = ascii(f"{header}, then {len(data) - start} bytes")[:200]
        raise ValueError(f"{found}; expected {_NPY_1_0!r}, {expected}, then {size_bytes} bytes")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)

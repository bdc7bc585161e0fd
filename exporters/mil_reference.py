"""Compute what a Core ML file says, with torch, on any system: the runtime ``mil-reference``.

It checks the *file*: which operations stand in it, with which weights as they are stored. It is not Apple's runtime and
says nothing about that: a processor there may sum in another order, or keep more or fewer bits between operations.
Here each result is computed in float32 and rounded to the type that the program gives it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import hetero
from exporters.mil_file import EMBEDDING, IMAGE, MilOperation, MilProgram, Name, Value, read_program, refusal

MAX_NUMBERS = 1 << 28
"""Of all results of one picture together, 1 GiB. A network of 300 operations on 224 × 224 pictures has some 10⁷."""
_TYPES = {"float16": torch.float16, "float32": torch.float32}
_WHERE = "this file"


class MilReference:
    """A Core ML file, opened from its bytes and computed with torch.

    Raises:
        BundleError: the file is damaged, asks for more memory than any student needs, computes something else than it
            declares, or has an operation that is not in :data:`OPERATIONS`, named in the error.
    """

    version = hetero.__version__

    def __init__(self, data: bytes) -> None:
        self.program = read_program(data, where=_WHERE)
        self.signature = self.program.signature
        _dry_run(self.program)
        self.constants = {operation.result: _dense(operation) for operation in _constants(self.program)}

    def run(self, pixels: np.ndarray, batch_size: int = 1) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]`` picture by picture, whatever ``batch_size``: ``float32 [n, dim]``.

        Raises:
            BundleError: pixels of another shape.
        """
        channels, height, width = self.program.shape
        if pixels.ndim != 4 or pixels.shape[1:] != (height, width, channels):
            raise refusal(_WHERE, "takes other pictures", list(pixels.shape), ["n", height, width, channels])
        rows = []
        with torch.no_grad():
            for picture in pixels:
                image = torch.from_numpy(picture.astype(np.float32))[None].permute(0, 3, 1, 2)  # channels last: faster
                rows.append(_evaluate(self.program, image, dict(self.constants))[EMBEDDING].numpy())
        return np.concatenate(rows)


def open_reference(data: bytes, threads: int) -> MilReference:
    """The file, computed with so many threads from now on by all of this process."""
    torch.set_num_threads(threads)
    return MilReference(data)


def _dry_run(program: MilProgram) -> None:
    """Go through the program without computing or allocating anything, and check each result's shape and size."""
    _bounded(math.prod(program.shape) + sum(math.prod(operation.shape) for operation in program.operations))
    constants = {
        operation.result: torch.empty(operation.shape, dtype=_TYPES.get(operation.dtype), device="meta")
        for operation in _constants(program)
    }
    image = torch.empty((1, *program.shape), dtype=torch.float32, device="meta")
    embedding = _evaluate(program, image, constants).get(EMBEDDING)
    if embedding is None or embedding.dtype != torch.float32 or embedding.shape != (1, program.dim):
        found = None if embedding is None else [str(embedding.dtype), list(embedding.shape)]
        raise refusal(_WHERE, "computes another embedding than it describes", found, ["float32", [1, program.dim]])


def _evaluate(program: MilProgram, image: Tensor, results: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedding, from ``results`` that are known and the image; on torch's meta device, only its shape.

    A result is let go after its last use: memory that is used again is three times as fast as new memory.
    """
    results[IMAGE] = image
    last_user = {name: operation.result for operation in program.operations for name in operation.names}
    for operation in program.operations:
        if operation.result not in results:
            results[operation.result] = _apply(operation, results, image.device)
        for name in operation.names - {EMBEDDING}:
            if last_user[name] == operation.result:
                del results[name]
    return results


def _bounded(count: int) -> None:
    if count > MAX_NUMBERS:
        raise refusal(_WHERE, "asks for more memory than any student needs", f"{count} numbers", f"≤ {MAX_NUMBERS}")


def _apply(operation: MilOperation, results: dict[str, Tensor], device: torch.device) -> Tensor:
    compute = OPERATIONS.get(operation.kind)
    if compute is None:
        raise refusal(_WHERE, "has an operation that is not computed here", operation.kind, ", ".join(OPERATIONS))
    if operation.dtype not in _TYPES:
        raise refusal(_WHERE, f"has a result of {operation.kind} that is no float", operation.dtype)

    def argument(value: Value | Name | list[Value | Name]) -> Any:
        if isinstance(value, list):
            return [argument(part) for part in value]
        if isinstance(value, Name):
            return results[value.name].float()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim:
            return torch.from_numpy(value.astype(np.float32)).to(device)
        return value if isinstance(value, str) else value.tolist()

    arguments = {key: argument(value) for key, value in operation.arguments.items()}
    try:
        inspect.signature(compute).bind(**arguments)
        found = compute(**arguments).to(_TYPES[operation.dtype])
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refusal(_WHERE, f"has an operation {operation.kind} that cannot be computed", reason) from error
    if found.shape != operation.shape:
        what = f"has an operation {operation.kind} that computes another shape than it declares"
        raise refusal(_WHERE, what, list(found.shape), list(operation.shape))
    return found


def _constants(program: MilProgram) -> list[MilOperation]:
    return [operation for operation in program.operations if operation.kind in _COMPRESSED]


def _dense(operation: MilOperation) -> Tensor:
    """Compressed weights as they are multiplied with, rounded to the program's type."""
    kind, names = _COMPRESSED[operation.kind]
    values = operation.arguments
    if set(values) != names or not all(isinstance(value, np.ndarray) for value in values.values()):
        raise refusal(_WHERE, f"has other arguments of {operation.kind}", sorted(values), sorted(names))
    dense = kind(operation, **values)
    if operation.dtype not in _TYPES or dense.shape != operation.shape:
        what = f"has an operation {operation.kind} that computes another shape than it declares"
        raise refusal(_WHERE, what, list(dense.shape), list(operation.shape))
    return torch.from_numpy(dense).to(_TYPES[operation.dtype])


def _affine_dequantize(
    operation: MilOperation, quantized_data: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, axis: np.ndarray
) -> np.ndarray:
    """``(q − zero) · scale``, the last two for each index along the axis."""
    shape = [1] * quantized_data.ndim
    place = int(axis) if axis.ndim == 0 else len(shape)
    if quantized_data.dtype not in (np.int8, np.uint8) or not 0 <= place < len(shape):
        raise refusal(_WHERE, "has int8 weights of another form", [str(quantized_data.dtype), place])
    shape[place] = quantized_data.shape[place]
    for part in (zero_point, scale):
        if part.shape not in ((), (shape[place],)):
            raise refusal(_WHERE, "has another number of scales than channels", part.shape, shape[place])
    zero, factor = (np.broadcast_to(part, shape[place]).reshape(shape) for part in (zero_point, scale))
    return (quantized_data.astype(np.float32) - zero.astype(np.float32)) * factor.astype(np.float32)


def _lut_to_dense(operation: MilOperation, indices: np.ndarray, lut: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Entries of a table of 2ⁿ, by indices of n bits, the lowest bit of the first byte first."""
    bits = lut.size.bit_length() - 1
    count = math.prod(operation.shape)
    if lut.size != 1 << bits or bits not in (1, 2, 4, 6, 8) or indices.dtype != np.uint8:
        raise refusal(_WHERE, "has palettes of another form", [lut.size, str(indices.dtype)])
    if shape.tolist() != list(operation.shape) or indices.size != -(-count * bits // 8):
        raise refusal(_WHERE, "has another number of indices than weights", indices.size, -(-count * bits // 8))
    each = np.unpackbits(indices.reshape(-1), bitorder="little")[: count * bits].reshape(count, bits)
    places = each.astype(np.int64) @ (1 << np.arange(bits))
    return lut.astype(np.float32).reshape(-1)[places].reshape(operation.shape)


_COMPRESSED: dict[str, tuple[Callable[..., np.ndarray], set[str]]] = {
    "constexpr_affine_dequantize": (_affine_dequantize, {"quantized_data", "zero_point", "scale", "axis"}),
    "constexpr_lut_to_dense": (_lut_to_dense, {"indices", "lut", "shape"}),
}


def _padded(x: Tensor, pad_type: str, pad: Sequence[int] | None, value: float = 0.0) -> Tensor:
    """Rows and columns around the picture; ``pad`` is top, bottom, left, right."""
    if pad_type == "valid" or (pad_type == "custom" and pad == [0, 0, 0, 0]):
        return x
    if pad_type != "custom" or pad is None or len(pad) != 4 or min(pad) < 0:
        raise ValueError(f"padding {pad_type} {pad}")
    top, bottom, left, right = pad
    # Seen on the meta device first, where it costs nothing.
    padded = functional.pad(x, (left, right, top, bottom), value=value)
    _bounded(padded.numel())
    return padded


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: list[int],
    pad_type: str,
    pad: list[int] | None = None,
    dilations: list[int],
    groups: int,
) -> Tensor:
    if pad_type == "custom" and pad is not None and pad[::2] == pad[1::2]:  # equal sides: nothing is copied
        rows, columns = pad[0], pad[2]
        _bounded(x.shape[1] * (x.shape[2] + 2 * rows) * (x.shape[3] + 2 * columns))
        return functional.conv2d(x, weight, bias, strides, (rows, columns), dilations, groups)
    return functional.conv2d(_padded(x, pad_type, pad), weight, bias, strides, 0, dilations, groups)


def _max_pool(
    x: Tensor,
    *,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    return functional.max_pool2d(
        _padded(x, pad_type, pad, -float("inf")), kernel_sizes, strides, ceil_mode=_never(ceil_mode)
    )


def _avg_pool(
    x: Tensor,
    *,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str,
    pad: list[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    if exclude_padding_from_average and pad_type != "valid" and pad != [0, 0, 0, 0]:
        raise ValueError("padding that is left out of the average")
    return functional.avg_pool2d(_padded(x, pad_type, pad), kernel_sizes, strides, ceil_mode=_never(ceil_mode))


def _never(option: bool) -> bool:
    if option:
        raise ValueError("an option that no export has")
    return False


def _pad(x: Tensor, *, pad: list[int], mode: str, constant_val: float = 0.0) -> Tensor:
    if mode != "constant" or len(pad) % 2 or min(pad) < 0:
        raise ValueError(f"padding {mode} {pad}")
    pairs = [pad[place : place + 2] for place in range(0, len(pad), 2)]  # of the last dimensions, in their order
    return functional.pad(x, [side for pair in reversed(pairs) for side in pair], value=constant_val)


def _cast(x: Tensor, *, dtype: str) -> Tensor:
    return x.to({"fp16": torch.float16, "fp32": torch.float32}[dtype])


def _concat(values: list[Tensor], *, axis: int, interleave: bool = False) -> Tensor:
    return torch.cat(values, axis + _never(interleave))


def _expand_dims(x: Tensor, *, axes: list[int]) -> Tensor:
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "linear": lambda x, weight, bias=None: functional.linear(x, weight, bias),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y, dtype=x.dtype, device=x.device)),
    "relu": lambda x: torch.relu(x),
    "clip": lambda x, alpha, beta: torch.clamp(x, alpha, beta),
    "leaky_relu": lambda x, alpha: torch.where(x >= 0, x, x * alpha),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, torch.zeros_like(x)),
    "sigmoid": lambda x: torch.sigmoid(x),
    "sigmoid_hard": lambda x, alpha, beta: torch.clamp(x * alpha + beta, 0, 1),
    "silu": lambda x: x * torch.sigmoid(x),
    "tanh": lambda x: torch.tanh(x),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keepdim=keep_dims),
    "reduce_l2_norm": lambda x, axes, keep_dims: torch.linalg.vector_norm(x, dim=axes, keepdim=keep_dims),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "pad": _pad,
    "reshape": lambda x, shape: x.reshape(shape),
    "expand_dims": _expand_dims,
    "concat": _concat,
    "cast": _cast,
}
"""What each operation computes, by MIL's names and with MIL's argument names: those that exported students have."""

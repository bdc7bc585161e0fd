"""What torch's ATen calls mean as operations of an exported graph: one translator each, and what to use instead."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """What one ATen call means: an operation still without name, module and shape. ``kind`` None: nothing happens."""

    kind: str | None
    inputs: tuple[Any, ...]  # torch.fx nodes
    options: dict[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Tensor | None] = field(default_factory=dict)


class UnsupportedError(Exception):
    """``args``: what was asked for, and what to use instead."""


def translate(node: Any, constants: Mapping[Any, Tensor]) -> tuple[Draft, tuple[int, ...]]:
    """What a node of an ATen graph means, and the shape of one picture's part of its result.

    Args:
        node: a ``torch.fx`` node that calls an ATen operation.
        constants: the tensors that some nodes stand for.

    Raises:
        UnsupportedError: with what was asked for and what to use instead.
    """
    if node.target is operator.getitem:  # batch normalisation returns a tuple
        return Draft(None, (node.args[0],)), _shape(node)
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", str(node.target))
    overload = getattr(node.target, "_overloadname", "")
    if name not in _TRANSLATORS or overload not in _OVERLOADS:
        asked = name if overload in ("", *_OVERLOADS) else f"{name}.{overload}"
        raise UnsupportedError(f"operation {asked}", _INSTEAD.get(name) or f"layers made of {_KNOWN}")
    shape = _shape(node)
    schema = node.target._schema.arguments
    arguments = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    arguments |= dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
    for key, value in arguments.items():
        if isinstance(value, torch.fx.Node):
            arguments[key] = constants.get(value, value)
        elif isinstance(value, list | tuple):
            arguments[key] = [constants.get(v, v) if isinstance(v, torch.fx.Node) else v for v in value]
    return _TRANSLATORS[name](node, arguments), shape


def _shape(node: Any) -> tuple[int, ...]:
    """One picture's part of a node's result."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) else value
    sides = tuple(getattr(value, "shape", ()))
    if len(sides) == 3 and sides[2] == 1:  # [b, c, 1] on the way between [b, c, 1, 1] and [b, c]
        sides = sides[:2]
    batch = bool(sides) and isinstance(sides[0], torch.SymInt) and sides[0].node.expr.is_Symbol
    if len(sides) not in (2, 4) or not batch or not all(isinstance(side, int) for side in sides[1:]):
        raise UnsupportedError(
            f"{node.target} with a result of shape {list(map(str, sides))}",
            "operations on [batch, channels, height, width] or [batch, channels] that keep the batch apart",
        )
    return sides[1:]


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    first, last = values[0], values[-1]
    return int(first), int(last)


def _weight(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise UnsupportedError(f"{what} that are computed from the picture", "fixed weights")
    return value


def _conv(node: Any, a: dict[str, Any]) -> Draft:
    weight = _weight(a["weight"], "convolution weights")
    dilation = _pair(a["dilation"])
    if isinstance(a["padding"], str):
        spare = [d * (k - 1) if a["padding"] == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = tuple(side for total in spare for side in (total // 2, total - total // 2))
    else:
        rows, columns = _pair(a["padding"])
        padding = (rows, rows, columns, columns)
    options = {"stride": _pair(a["stride"]), "padding": padding, "dilation": dilation, "groups": a["groups"]}
    return Draft("conv", (a["input"],), options, {"weight": weight, "bias": a["bias"]})


def _linear(node: Any, a: dict[str, Any]) -> Draft:
    if a["input"].meta["val"].dim() != 2:
        raise UnsupportedError("a linear layer over the last side of a feature map", "a convolution with a 1×1 kernel")
    return Draft("linear", (a["input"],), {}, {"weight": _weight(a["weight"], "weights"), "bias": a["bias"]})


def _batch_norm(node: Any, a: dict[str, Any]) -> Draft:
    mean, variance = a["running_mean"].double(), a["running_var"].double()
    scale = torch.ones_like(mean) if a["weight"] is None else a["weight"].double()
    scale = scale / torch.sqrt(variance + a["eps"])
    shift = -mean * scale + (0 if a["bias"] is None else a["bias"].double())
    return Draft("affine", (a["input"],), {}, {"scale": scale.float(), "shift": shift.float()})


def _arithmetic(kind: str) -> Callable[[Any, dict[str, Any]], Draft]:
    """Of two results, of a result and a number, or of a result and a vector of weights."""

    def translate(node: Any, a: dict[str, Any]) -> Draft:
        x, y, factor = a["self"], a["other"], a.get("alpha", 1)
        if isinstance(x, torch.fx.Node) and isinstance(y, torch.fx.Node):
            if not all(isinstance(side.meta.get("val"), Tensor) for side in (x, y)):
                raise UnsupportedError(f"{kind} of a result and the number of pictures", "results and fixed numbers")
            if factor != 1:
                raise UnsupportedError(f"{kind} of two results with alpha={factor}", "a multiplication before it")
            if kind == "divide":
                raise UnsupportedError("divide of two results", "multiply")
            if x.meta["val"].dim() != y.meta["val"].dim():
                raise UnsupportedError(f"{kind} of results of different rank", "keepdim=True, or flatten both")
            return Draft(kind, (x, y))
        swapped = not isinstance(x, torch.fx.Node)
        if swapped:
            x, y = y, x
            if factor != 1:
                raise UnsupportedError(f"{kind} with alpha={factor}", "a multiplication before it")
        vector = torch.as_tensor(y, dtype=torch.float64) * factor
        one = torch.ones((), dtype=torch.float64)
        if kind == "divide" and swapped:
            raise UnsupportedError("a division by a result", "multiply")
        scale, shift = {
            "add": (one, vector),
            "subtract": (-one, vector) if swapped else (one, -vector),
            "multiply": (vector, 0 * one),
            "divide": (1 / vector, 0 * one),
        }[kind]
        return _scale_and_shift(node, x, scale, shift)

    return translate


def _reversed_subtract(node: Any, a: dict[str, Any]) -> Draft:
    return _arithmetic("subtract")(node, {"self": a["other"], "other": a["self"], "alpha": a["alpha"]})


def _scale_and_shift(node: Any, x: Any, scale: Tensor, shift: Tensor) -> Draft:
    if scale.numel() == shift.numel() == 1:
        return Draft("scalar", (x,), {"scale": float(scale), "shift": float(shift)})
    shape = _shape(node)
    if _shape(x) != shape:
        raise UnsupportedError(f"{node.target} that makes {list(shape)} of {list(_shape(x))}", "a 1×1 convolution")
    for vector in (scale, shift):
        sides = [1] * (len(shape) + 1 - vector.dim()) + list(vector.shape)
        if vector.numel() != 1 and sides != [1, shape[0], *[1] * (len(shape) - 1)]:
            raise UnsupportedError(f"{node.target} with weights {list(vector.shape)}", "one number a channel")
    weights: dict[str, Tensor | None] = {}
    for name, vector, nothing in (("scale", scale, 1), ("shift", shift, 0)):
        if not bool((vector == nothing).all()):
            weights[name] = vector.reshape(-1).expand(shape[0]).float()
    return Draft("affine" if weights else None, (x,), {}, weights)


def _mean(node: Any, a: dict[str, Any]) -> Draft:
    if a["dtype"] is not None:
        raise UnsupportedError(f"a mean as {a['dtype']}", "float32 throughout")
    before = a["self"].meta["val"].dim()
    dims = sorted(dim % before for dim in (a["dim"] or []))
    if before != 4 or dims != [2, 3]:
        raise UnsupportedError(f"a mean over dimensions {a['dim']}", "a mean over height and width")
    return Draft("mean", (a["self"],), {"keep": bool(a["keepdim"])})


def _pool_options(a: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, int]]:
    if a["ceil_mode"]:
        raise UnsupportedError("pooling with ceil_mode=True", "padding, and ceil_mode=False")
    options = {"kernel": _pair(a["kernel_size"]), "stride": _pair(a["stride"] or a["kernel_size"])}
    return options, _pair(a["padding"])


def _max_pool(node: Any, a: dict[str, Any]) -> Draft:
    options, padding = _pool_options(a)
    if _pair(a["dilation"]) != (1, 1):
        raise UnsupportedError("dilated max pooling", "dilation=1")
    return Draft("max_pool", (a["self"],), {**options, "padding": padding})


def _average_pool(node: Any, a: dict[str, Any]) -> Draft:
    options, padding = _pool_options(a)
    if padding != (0, 0) or a["divisor_override"] is not None:
        raise UnsupportedError("average pooling with padding or another divisor", "no padding, no divisor_override")
    return Draft("average_pool", (a["self"],), options)


def _adaptive_pool(node: Any, a: dict[str, Any]) -> Draft:
    before, after = tuple(a["self"].meta["val"].shape[2:]), _pair(a["output_size"])
    if after == (1, 1):
        return Draft("mean", (a["self"],), {"keep": True})
    if before[0] % after[0] or before[1] % after[1]:
        raise UnsupportedError(
            f"adaptive pooling of {list(before)} to {list(after)} positions", "an output size that divides the input's"
        )
    window = before[0] // after[0], before[1] // after[1]
    return Draft("average_pool", (a["self"],), {"kernel": window, "stride": window})


def _reshape(node: Any, a: dict[str, Any]) -> Draft:
    before, after = _shape(a["self"]), _shape(node)
    if before == after:
        return Draft(None, (a["self"],))
    if len(after) == 1:
        return Draft("flatten", (a["self"],))
    if after == (*before, 1, 1):
        return Draft("spread", (a["self"],))
    raise UnsupportedError(f"a reshape of {list(before)} to {list(after)}", "flatten to one vector a picture")


def _concatenate(node: Any, a: dict[str, Any]) -> Draft:
    if a["dim"] % node.meta["val"].dim() != 1 or not all(isinstance(part, torch.fx.Node) for part in a["tensors"]):
        raise UnsupportedError(f"a concatenation along dimension {a['dim']}", "channels (dimension 1) of results")
    return Draft("concatenate", tuple(a["tensors"]))


def _clamp(node: Any, a: dict[str, Any]) -> Draft:
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    if not all(bound is None or isinstance(bound, int | float) for bound in (low, high)):
        raise UnsupportedError("a clamp to bounds that are not numbers", "one number for each bound")
    bounds = {"low": -math.inf if low is None else float(low), "high": math.inf if high is None else float(high)}
    return Draft("clamp", (a["self"],), bounds)


def _prelu(node: Any, a: dict[str, Any]) -> Draft:
    slope = _weight(a["weight"], "slopes")
    return Draft("prelu", (a["self"],), {}, {"slope": slope.expand(_shape(node)[0])})


def _slice(node: Any, a: dict[str, Any]) -> Draft:
    """``x[:, :, None]`` slices whole sides; nothing else may."""
    if a["start"] not in (None, 0) or a["step"] != 1 or not (a["end"] is None or a["end"] >= 2**62):
        raise UnsupportedError("a slice of a result", "a layer that computes only what is needed")
    return Draft(None, (a["self"],))


def _copy(node: Any, a: dict[str, Any]) -> Draft:
    if a["dtype"] not in (None, torch.float32):
        raise UnsupportedError(f"a conversion to {a['dtype']}", "float32 throughout")
    return Draft(None, (a["self"],))


def _same(kind: str | None) -> Callable[[Any, dict[str, Any]], Draft]:
    return lambda node, a: Draft(kind, (a["self"],))


# Other overloads of the same name mean something else (div.Tensor_mode rounds, view.dtype reinterprets the bits).
_OVERLOADS = ("default", "padding", "Tensor", "Scalar", "dim", "dims", "using_ints")
_TRANSLATORS: dict[str, Callable[[Any, dict[str, Any]], Draft]] = {
    "conv2d": _conv,
    "linear": _linear,
    "_native_batch_norm_legit_no_training": _batch_norm,
    **{kind: _same(kind) for kind in ("relu", "hardswish", "hardsigmoid", "sigmoid", "silu", "tanh")},
    "leaky_relu": lambda node, a: Draft("leaky_relu", (a["self"],), {"slope": float(a["negative_slope"])}),
    "prelu": _prelu,
    "hardtanh": _clamp,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "add": _arithmetic("add"),
    "sub": _arithmetic("subtract"),
    "rsub": _reversed_subtract,
    "mul": _arithmetic("multiply"),
    "div": _arithmetic("divide"),
    "mean": _mean,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze", "unsqueeze", "_unsafe_view"), _reshape),
    "cat": _concatenate,
    "slice": _slice,
    "_to_copy": _copy,
    **{name: _same(None) for name in ("clone", "alias", "detach", "contiguous", "lift_fresh_copy")},
}
_KNOWN = (
    "convolution, linear, batch normalisation, ReLU and its relatives, sigmoid, tanh, pooling, sums, products, flatten "
    "and concatenation"
)
_INSTEAD = {
    "gelu": "hardswish or silu",
    "elu": "hardswish or silu",
    "mish": "hardswish or silu",
    "softplus": "hardswish or silu",
    "_native_batch_norm_legit": "batch normalisation with running statistics",
    "native_layer_norm": "batch normalisation, which costs nothing once folded",
    "layer_norm": "batch normalisation, which costs nothing once folded",
    "native_group_norm": "batch normalisation, which costs nothing once folded",
    "group_norm": "batch normalisation, which costs nothing once folded",
    "instance_norm": "batch normalisation, which costs nothing once folded",
    "scaled_dot_product_attention": "convolutions and squeeze-excite",
    "upsample_nearest2d": "a network that only gets smaller",
    "upsample_bilinear2d": "a network that only gets smaller",
    "max": "max_pool2d",
    "amax": "max_pool2d over all positions",
    "adaptive_max_pool2d": "max_pool2d with a kernel of the feature map's size",
    "linalg_vector_norm": "the bare embedding as output: unit length is added by the export",
    "permute": "channels first throughout; the layout is the export's business",
    "transpose": "channels first throughout; the layout is the export's business",
}

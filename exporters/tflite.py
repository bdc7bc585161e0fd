"""Write a graph as a TFLite file: its operations in TensorFlow, channels last, then TensorFlow's converter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from exporters.graph import IMAGE, Graph, Operation
from exporters.manifest import FileOutput
from exporters.quiet import quiet
from exporters.tflite_file import MARK
from exporters.tflite_metadata import NAME, rgb_metadata
from hetero.errors import ExportError, MissingExtraError

T = TypeVar("T")
_L2_EPSILON = 1e-24  # under the root: the graph's 1e-12 squared


def to_tflite(graph: Graph, precision: str, metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The graph as a TFLite file (its bytes), and how often each operator occurs in it.

    Its input ``image`` is float32 ``[1, h, w, c]`` in 0..255, its output ``embedding`` float32 ``[1, dim]``.

    Args:
        precision: ``fp32``, ``fp16`` (weights) or ``dynamic`` (int8 weights, activations quantised as they come).
        metadata: strings kept in the file. A file that takes RGB also says so in TFLite Model Metadata.

    Raises:
        ExportError: TensorFlow cannot express or convert it. MissingExtraError: TensorFlow is not installed.
    """
    tf = tensorflow()

    def convert() -> bytes:
        function, root = emit(graph)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], root)
        if precision != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            # A scale for each row of a matrix would need the operator's newest version, which older devices lack.
            converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        if precision == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())

    return annotated(attempt(convert), graph.shape, metadata)


def attempt(do: Callable[[], T]) -> T:
    """Have TensorFlow do something; what it prints is dropped.

    Raises:
        ExportError: it failed.
    """
    with quiet():
        try:
            return do()
        except ExportError:
            raise
        except Exception as error:  # TensorFlow and its converter raise classes that they do not document
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ExportError("TensorFlow cannot convert this network", got=lines[0] if lines else None) from error


def annotated(data: bytes, shape: tuple[int, int, int], metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The file with these strings and, if it takes colours as float32, TFLite's own metadata; each operator's count.

    Args:
        shape: the picture's, ``(channels, height, width)``.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = parsed(data)
    contents = {name: value.encode() for name, value in metadata.items()}
    channels, height, width = shape
    source = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    if channels == 3 and source.type == schema.TensorType.FLOAT32:
        # The graph normalises colours itself, so that bytes come as they are.
        contents[NAME] = rgb_metadata(height, width, mean=0.0, std=1.0)
    model.metadata = [entry for entry in model.metadata or [] if entry.name.decode() not in contents]
    for name, value in sorted(contents.items()):
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(value, np.uint8)
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    counts = Counter(kind for kind, _ in operators(model))
    return packed(model), dict(sorted(counts.items()))


def packed(model: Any) -> bytes:
    """The objects of :func:`parsed` as a TFLite file, equal vectors in it once.

    Each channel of int8 weights and of their bias has a zero point of eight bytes, all zero: a tenth of a small file.
    """
    import flatbuffers

    class Sharing(flatbuffers.Builder):  # type: ignore[misc]  # it ships no types
        """Tables may point to one vector: offsets are all that they hold."""

        def __init__(self) -> None:
            super().__init__(1 << 20)
            self.shared: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802  (the builder's name)
            key = x.dtype.str, x.tobytes()
            if key not in self.shared:
                self.shared[key] = int(super().CreateNumpyVector(x))
            return self.shared[key]

    builder = Sharing()
    builder.Finish(model.Pack(builder), file_identifier=MARK)
    return bytes(builder.Output())


def parsed(data: bytes) -> Any:
    """A TFLite file as the objects of its schema."""
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils.convert_bytearray_to_object(bytearray(data))


def operators(model: Any) -> Iterator[tuple[str, Any]]:
    """The kind, such as ``CONV_2D``, and the record of each operator, in the file's order."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    kinds = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    for operator in model.subgraphs[0].operators:
        yield kinds[operator.opcodeIndex], operator


def output_of(data: bytes) -> FileOutput:
    """How a TFLite file gives its embedding."""
    model = parsed(data)
    [place] = model.subgraphs[0].outputs
    tensor = model.subgraphs[0].tensors[place]
    if tensor.quantization is None or tensor.quantization.scale is None:
        return FileOutput()
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return FileOutput(dtype="int8", scale=scale, zero_point=zero_point)


def emit(graph: Graph) -> tuple[Any, Any]:
    """A concrete TensorFlow function of the graph on one picture, and the module that keeps it alive."""
    tf = tensorflow()
    channels, height, width = graph.shape

    def embed(image: Any) -> dict[str, Any]:
        results = {IMAGE: image}
        for operation in graph.operations:
            values = [results[name] for name in operation.inputs]
            with tf.name_scope(operation.name):  # by which quantisation finds it again
                result = _EMITTERS[operation.kind](tf, graph, operation, *values)
            _require_shape(operation, tuple(result.shape))
            results[operation.name] = result
        return {"embedding": results[graph.operations[-1].name]}

    root = tf.Module()
    signature = [tf.TensorSpec([1, height, width, channels], tf.float32, name=IMAGE)]
    root.embed = tf.function(embed, input_signature=signature, autograph=False)
    return root.embed.get_concrete_function(), root


def _require_shape(operation: Operation, found: tuple[int, ...]) -> None:
    expected = operation.shape if len(operation.shape) == 1 else (*operation.shape[1:], operation.shape[0])
    if found != (1, *expected):
        raise ExportError(
            f"{operation.name} comes out of TensorFlow in another shape",
            got=list(found),
            expected=[1, *expected],
            fix="report this network",
        )


def _conv(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    options = operation.options
    weight = operation.weights["weight"].numpy()  # [out, in / groups, rows, columns]
    strides, dilations, groups = list(options["stride"]), list(options["dilation"]), options["groups"]
    if max(strides) > 1 and max(dilations) > 1:
        raise ExportError(
            f"{operation.name} cannot be exported to TFLite",
            got=f"stride {strides} with dilation {dilations}",
            fix="use one of the two",
        )
    x, padding = _padded(tf, x, options["padding"], weight.shape[2:], strides, dilations)
    inputs = x.shape[3]
    if groups == 1:
        y = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), strides, padding, dilations=dilations)
    elif groups == inputs and len(set(strides)) == 1 and max(dilations) == 1:
        # [in · m, 1, rows, columns] to [rows, columns, in, m]: filters of one channel lie side by side.
        weight = weight.reshape(inputs, -1, *weight.shape[2:]).transpose(2, 3, 0, 1)
        y = tf.nn.depthwise_conv2d(x, weight, [1, *strides, 1], padding, dilations=dilations)
    else:
        parts = zip(tf.split(x, groups, axis=3), np.split(weight, groups), strict=True)
        y = tf.concat(
            [tf.nn.conv2d(p, w.transpose(2, 3, 1, 0), strides, padding, dilations=dilations) for p, w in parts], axis=3
        )
    return y if "bias" not in operation.weights else tf.nn.bias_add(y, operation.weights["bias"].numpy())


def _padded(
    tf: Any, x: Any, padding: tuple[int, ...], kernel: Any, strides: list[int], dilations: list[int]
) -> tuple[Any, str]:
    """The picture, padded where TensorFlow's own two paddings are not what torch pads, and which of the two to use."""
    pairs = [padding[:2], padding[2:]]
    if not any(padding):
        return x, "VALID"
    same = list(map(_same_padding, map(int, x.shape[1:3]), kernel, strides, dilations))
    if same == [tuple(pair) for pair in pairs]:
        return x, "SAME"
    return tf.pad(x, [[0, 0], *map(list, pairs), [0, 0]]), "VALID"


def _same_padding(side: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What TensorFlow's SAME pads before and behind."""
    total = max((-(-side // stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
    return total // 2, total - total // 2


def _linear(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    y = tf.matmul(x, operation.weights["weight"].numpy().T.copy())
    return y if "bias" not in operation.weights else tf.nn.bias_add(y, operation.weights["bias"].numpy())


def _affine(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    if "scale" in operation.weights:
        x = x * operation.weights["scale"].numpy()  # the channels are last
    return x if "shift" not in operation.weights else x + operation.weights["shift"].numpy()


def _clamp(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    low, high = operation.options["low"], operation.options["high"]
    if low == 0:
        return {6.0: tf.nn.relu6, float("inf"): tf.nn.relu}.get(high, lambda v: tf.minimum(tf.nn.relu(v), high))(x)
    x = x if low == float("-inf") else tf.maximum(x, low)
    return x if high == float("inf") else tf.minimum(x, high)


def _prelu(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    return tf.nn.relu(x) - operation.weights["slope"].numpy() * tf.nn.relu(-x)


def _max_pool(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    rows, columns = operation.options["padding"]
    kernel, strides = list(operation.options["kernel"]), list(operation.options["stride"])
    if (rows or columns) and not _is_positive(graph, operation.inputs[0]):
        raise ExportError(
            f"{operation.name} pads before max pooling where values may be negative",
            got="padding " + str([rows, columns]),
            fix="put a ReLU before it, or pad nothing",
        )
    x, padding = _padded(tf, x, (rows, rows, columns, columns), kernel, strides, [1, 1])
    return tf.nn.max_pool2d(x, kernel, strides, padding)


def _is_positive(graph: Graph, name: str) -> bool:
    """Whether a result is never below 0, so that zeros beside it change no maximum."""
    [operation] = [operation for operation in graph.operations if operation.name == name]
    if operation.kind in ("max_pool", "average_pool", "concatenate", "add"):
        return all(source != IMAGE and _is_positive(graph, source) for source in operation.inputs)
    return operation.kind in ("relu", "sigmoid", "hardsigmoid") or operation.options.get("low", -1) >= 0


def _average_pool(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    return tf.nn.avg_pool2d(x, list(operation.options["kernel"]), list(operation.options["stride"]), "VALID")


def _flatten(tf: Any, graph: Graph, operation: Operation, x: Any) -> Any:
    if x.shape[1] * x.shape[2] > 1:
        x = tf.transpose(x, [0, 3, 1, 2])  # torch flattens channel by channel
    return tf.reshape(x, [1, operation.shape[0]])


_Emitter = Callable[..., Any]
_EMITTERS: dict[str, _Emitter] = {
    "conv": _conv,
    "linear": _linear,
    "affine": _affine,
    "relu": lambda tf, graph, operation, x: tf.nn.relu(x),
    "clamp": _clamp,
    "hardsigmoid": lambda tf, graph, operation, x: tf.nn.relu6(x + 3.0) * (1 / 6),
    "hardswish": lambda tf, graph, operation, x: x * (tf.nn.relu6(x + 3.0) * (1 / 6)),  # as the converter knows it
    "sigmoid": lambda tf, graph, operation, x: tf.sigmoid(x),
    "silu": lambda tf, graph, operation, x: x * tf.sigmoid(x),
    "tanh": lambda tf, graph, operation, x: tf.tanh(x),
    "leaky_relu": lambda tf, graph, operation, x: tf.nn.leaky_relu(x, operation.options["slope"]),
    "prelu": _prelu,
    "add": lambda tf, graph, operation, x, y: x + y,
    "subtract": lambda tf, graph, operation, x, y: x - y,
    "multiply": lambda tf, graph, operation, x, y: x * y,
    "scalar": lambda tf, graph, operation, x: _scalar(operation, x),
    "mean": lambda tf, graph, operation, x: tf.reduce_mean(x, [1, 2], keepdims=operation.options["keep"]),
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "flatten": _flatten,
    "spread": lambda tf, graph, operation, x: x[:, None, None, :],
    "concatenate": lambda tf, graph, operation, *x: tf.concat(x, axis=-1),
    "unit_length": lambda tf, graph, operation, x: tf.math.l2_normalize(x, axis=1, epsilon=_L2_EPSILON),
}


def _scalar(operation: Operation, x: Any) -> Any:
    scale, shift = operation.options["scale"], operation.options["shift"]
    x = x if scale == 1 else x * scale
    return x if shift == 0 else x + shift


def tensorflow() -> Any:
    """The package, imported when it is first needed.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with quiet():  # it warns of missing GPUs
            import tensorflow
    except ImportError as error:
        raise MissingExtraError("exporting to TFLite", "tensorflow", "tflite") from error
    return tensorflow

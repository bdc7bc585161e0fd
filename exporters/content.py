"""What a file really is made of, counted from its bytes: an "int8" file whose weights stayed float is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from exporters.manifest import Content
from exporters.recipes import Recipe
from hetero.errors import ExportError

_TYPE = {
    "dynamic": "int8",
    "int8": "int8",
    "int8io": "int8",
    "int8w": "int8",
    "fp16": "float16",
}  # of the weights, by precision
_LEAST = 0.5  # share of the weights' numbers: TFLite's dynamic range leaves tensors of less than 1,024 numbers float


def content_of_onnx(data: bytes) -> Content:
    """The content of an ONNX file."""
    import onnx

    graph = onnx.load_from_string(data).graph
    types = {tensor.name: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in graph.initializer}
    weight_bytes: Counter[str] = Counter()
    for tensor in graph.initializer:
        weight_bytes[types[tensor.name].name] += types[tensor.name].itemsize * int(np.prod(tensor.dims, dtype=np.int64))
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    int8 = [node for node in layers if node.input[0] in stored and types.get(stored.get(node.input[1])) == np.int8]
    return Content(weight_bytes=dict(sorted(weight_bytes.items())), layers=len(layers), int8_layers=len(int8))


def content_of_tflite(data: bytes) -> Content:
    """The content of a TFLite file. A layer counts as int8 if its weights are: "dynamic" files round the rest later."""
    from tensorflow.lite.python import schema_py_generated as schema

    from exporters.tflite import operators, parsed

    model = parsed(data)
    names = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    tensors = model.subgraphs[0].tensors
    weight_bytes: Counter[str] = Counter()
    for tensor in tensors:
        stored = model.buffers[tensor.buffer].data
        if stored is not None:
            weight_bytes[names[tensor.type]] += len(stored)
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    layers = [operator for kind, operator in operators(model) if kind in kinds]
    int8 = [operator for operator in layers if names[tensors[operator.inputs[1]].type] == "int8"]
    return Content(weight_bytes=dict(sorted(weight_bytes.items())), layers=len(layers), int8_layers=len(int8))


def content_of_coreml(data: bytes) -> Content:
    """The content of an archived Core ML package. Layers with int8 weights count; they compute in half precision."""
    from exporters.mil_file import Name, read_program

    program = read_program(data, where="the exported model")
    makers = {operation.result: operation.kind for operation in program.operations}
    weight_bytes: Counter[str] = Counter()
    layers = int8 = 0
    for operation in program.operations:
        for value in operation.arguments.values():
            if isinstance(value, np.ndarray) and value.size > 1:
                weight_bytes[value.dtype.name] += value.nbytes
        if operation.kind in ("conv", "linear"):
            weight = operation.arguments["weight"]
            layers += 1
            int8 += isinstance(weight, Name) and makers.get(weight.name) == "constexpr_affine_dequantize"
    return Content(weight_bytes=dict(sorted(weight_bytes.items())), layers=layers, int8_layers=int8)


def require_content(content: Content, recipe: Recipe, kept_float: Collection[str]) -> None:
    """Refuse a file that is not what its recipe's name says.

    Raises:
        ExportError: weights of another type, or layers in float that nobody asked to keep.
    """
    wanted = _TYPE.get(recipe.precision)
    if wanted is None:
        return
    numbers = {name: size // np.dtype(name).itemsize for name, size in content.weight_bytes.items() if name != "string"}
    share = numbers.get(wanted, 0) / max(sum(numbers.values()), 1)
    float_layers = content.layers - content.int8_layers
    if share < _LEAST and not kept_float:
        raise ExportError(
            f"the {recipe.format} {recipe.precision} file is not what its name says",
            got=f"{share:.0%} of its weights are {wanted}",
            expected=f"at least {_LEAST:.0%}",
            fix="export so small a network as fp32: dynamic range leaves tensors of less than 1,024 numbers float",
        )
    if recipe.calibrated and float_layers > len(kept_float):
        raise ExportError(
            f"the {recipe.format} {recipe.precision} file is not what its name says",
            got=f"{float_layers} of its {content.layers} layers stayed float",
            expected=f"{len(kept_float)}, those that were kept on purpose",
            fix="report this network",
        )

"""Write a graph as a Core ML package: traced by torch, converted and compressed by coremltools, on any system."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.graph import IMAGE, Graph, GraphNetwork
from exporters.manifest import MAX_FILE_BYTES
from exporters.mlpackage import Package, write_archive
from exporters.quiet import quiet
from hetero.errors import ExportError, MissingExtraError

COLOURS = {1: "GRAYSCALE", 3: "RGB"}
_LAYERS = ("conv", "linear")  # MIL's operations with trained matrices
_COMPRESSED = {"int8w": "constexpr_affine_dequantize", "palette6": "constexpr_lut_to_dense"}
_PALETTE_BITS = 6
# What makes the vector's length 1. In half precision the length would be off by up to 5e-4, and a runtime that sums
# squares in half precision would overflow from a length of 256 on.
_LENGTH = ("reduce_l2_norm", "maximum", "real_div")
_ARCHIVE_BYTES = 4096  # more than what the archive puts around the two files
_NOTES = "com.github.apple.coremltools."  # the converter's, with the day of the conversion


def to_coreml(graph: Graph, precision: str, metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The graph as an archived ``.mlpackage`` (its bytes, see mlpackage.py), and how often each operator occurs in it.

    An ML program for iOS 16, macOS 13 and later. Its input ``image`` is a picture (RGB, or grayscale where the graph
    has one channel) of the graph's size, taken as 0..255 with neither scale nor bias; its output ``embedding`` is
    float32 ``[1, dim]``.

    Args:
        precision: ``fp32``; ``fp16`` (weights and activations, but for the vector's length, which stays in float32);
            ``int8w`` and ``palette6``: ``fp16`` with the weights of every convolution and linear layer as int8 with a
            scale for each channel, or as 6 bits into a table for each layer.
        metadata: kept in the file's user-defined metadata.

    Raises:
        ExportError: it cannot be converted, or a layer's weights are not of the declared precision.
        MissingExtraError: coremltools or scikit-learn is not installed.
    """
    with quiet():
        ct = _coremltools()
        try:
            model = _converted(ct, graph, precision)
            spec = model.get_spec()
            path = Path(model.package_path) / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
            weights = path.read_bytes() if path.is_file() else b""
        except Exception as error:  # coremltools raises classes that it does not document
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ExportError(
                "coremltools cannot convert this network", got=lines[0] if lines else type(error).__name__
            ) from error
    if not weights:
        raise ExportError(
            "the network is too small for a Core ML package",
            got="no tensor of 10 weights or more, so no weights file",
            fix="use a larger network",
        )
    operations = operations_of(spec)
    if precision in _COMPRESSED:
        _require_compressed(operations, precision)
    own = spec.description.metadata.userDefined
    for key in [key for key in own if key.startswith(_NOTES)]:
        del own[key]  # equal inputs give equal files
    own.update(metadata)
    package = Package(spec.SerializeToString(deterministic=True), weights)
    size_bytes = len(package.model) + len(package.weights)
    if size_bytes > MAX_FILE_BYTES - _ARCHIVE_BYTES:
        raise ExportError(
            "the network is too large for a bundle",
            got=f"{size_bytes} bytes",
            expected=f"{MAX_FILE_BYTES - _ARCHIVE_BYTES}",
        )
    counts = Counter(operation.type for operation in operations if operation.type != "const")
    return write_archive(package), dict(sorted(counts.items()))


def operations_of(spec: Any) -> list[Any]:
    """The operations of an ML program's one function, as protobuf records."""
    [function] = spec.mlProgram.functions.values()
    [block] = function.block_specializations.values()
    return list(block.operations)


def _converted(ct: Any, graph: Graph, precision: str) -> Any:
    """coremltools' model of the graph, compressed where the precision asks for it."""
    shape = (1, *graph.shape)
    with torch.no_grad():
        # The exporter of torch.export would rename the input and give the output in half precision.
        trace: Any = torch.jit.trace
        traced = trace(GraphNetwork(graph).eval(), (torch.zeros(shape),), check_trace=False)
    half = ct.transform.FP16ComputePrecision(op_selector=lambda operation: operation.op_type not in _LENGTH)
    return ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=[ct.ImageType(name=IMAGE, shape=shape, color_layout=getattr(ct.colorlayout, COLOURS[graph.shape[0]]))],
        outputs=[ct.TensorType(name="embedding", dtype=np.float32)],
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else half,
        minimum_deployment_target=ct.target.iOS16,
        pass_pipeline=_passes(ct, precision),
        skip_model_load=True,
    )


def _passes(ct: Any, precision: str) -> Any:
    """coremltools' passes over the program, less a wrong one, and the one that compresses last."""
    passes = ct.PassPipeline()
    # It makes batch_norm of a factor and a term, adding 1e-5 to a variance of 1: each factor is then 5e-6 too small.
    passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    optimize = ct.optimize.coreml
    # weight_threshold: coremltools would leave tensors of up to 2,048 weights in float without saying so.
    each = {
        "int8w": lambda: optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
        ),
        "palette6": lambda: optimize.OpPalettizerConfig(mode="kmeans", nbits=_PALETTE_BITS, weight_threshold=0),
    }
    if precision in each:
        name = {"int8w": "compression::linear_quantize_weights", "palette6": "compression::palettize_weights"}[
            precision
        ]
        config = optimize.OptimizationConfig(op_type_configs=dict.fromkeys(_LAYERS, each[precision]()))
        passes.append_pass(name)
        passes.set_options(name, {"config": config})
    return passes


def _require_compressed(operations: list[Any], precision: str) -> None:
    """Refuse a program with a layer whose weights stayed in float, or have fewer scales than channels."""
    makers = {operation.outputs[0].name: operation for operation in operations}
    kind = _COMPRESSED[precision]
    wrong = []
    for operation in operations:
        if operation.type not in _LAYERS:
            continue
        maker = makers.get(operation.inputs["weight"].arguments[0].name)
        if maker is None or maker.type != kind:
            wrong.append(f"{operation.outputs[0].name}: {maker.type if maker else 'not constant'}")
        elif precision == "int8w":
            scales, channels = (
                sizes(value.type)[:1] for value in (maker.attributes["scale"], maker.attributes["quantized_data"])
            )
            if scales != channels:
                wrong.append(f"{operation.outputs[0].name}: {scales} scales for {channels} channels")
    if wrong:
        raise ExportError(
            f"the Core ML model's weights are not all {precision}",
            got=", ".join(wrong[:5]),
            expected=f"{kind} before each convolution and linear layer",
            fix="export fp16: coremltools compresses no tensor of fewer than 10 weights",
        )


def sizes(value_type: Any) -> list[int]:
    """The shape in a protobuf type."""
    return [int(side.constant.size) for side in value_type.tensorType.dimensions]


def _coremltools() -> Any:
    try:
        import coremltools
        import coremltools.optimize
        import sklearn.cluster  # noqa: F401  (coremltools needs it for palettes and says so only deep inside)
    except ImportError as error:
        package = "scikit-learn" if (error.name or "").startswith("sklearn") else error.name or "coremltools"
        raise MissingExtraError("exporting to Core ML", package, "coreml") from error
    return coremltools

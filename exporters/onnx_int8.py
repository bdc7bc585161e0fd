"""Static quantisation of an ONNX file: int8 weights and activations, as QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from exporters.onnx import checked
from exporters.quiet import quiet
from hetero.errors import ExportError, MissingExtraError

_BATCH = 8  # pictures at a time: calibration keeps every activation of a batch in memory


class OnnxQuantiser:
    """Makes int8 files of one float32 file, with different operations left in float.

    Args:
        data: what :func:`exporters.onnx.to_onnx` made.
        calibration: ``uint8 [n, h, w, c]``, real pictures: activations are scaled to what these give.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
    """

    def __init__(self, data: bytes, calibration: np.ndarray) -> None:
        try:
            import onnx  # noqa: F401
            import onnxruntime.quantization  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("quantising ONNX", error.name or "onnxruntime", "onnx") from error
        self._data, self._calibration = data, calibration

    def convert(self, keep_float: Collection[str] = ()) -> tuple[bytes, dict[str, int]]:
        """The int8 file, and how often each operator occurs in it.

        Weights are per channel and, with uint8 activations, of 7 bits: on processors whose widest instruction adds two
        such products in 16 bits (AVX2), sums of 8-bit ones saturate.

        Args:
            keep_float: names of the graph's operations that are not to be quantised. The normalisation never is.

        Raises:
            ExportError: onnxruntime cannot quantise it.
        """
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder, quiet():
            source, prepared, result = (Path(folder) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
            source.write_bytes(self._data)
            try:
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                nodes = [node.name for node in onnx.load(prepared).graph.node]
                quantize_static(
                    str(prepared),
                    str(result),
                    _Reader(self._calibration),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=[name for name in nodes if name.split("/")[0] in {"embedding", *keep_float}],
                )
                proto = onnx.load(result)
            except Exception as error:  # onnxruntime's tools raise whatever their parts raise
                raise ExportError(
                    "onnxruntime cannot quantise this network", got=f"{type(error).__name__}: {error}"
                ) from error
        metadata = {entry.key: entry.value for entry in onnx.load_from_string(self._data).metadata_props}
        del proto.metadata_props[:]
        onnx.helper.set_model_props(proto, metadata)
        used = {node.domain for node in proto.graph.node}
        kept = [entry for entry in proto.opset_import if entry.domain in used]
        del proto.opset_import[:]
        proto.opset_import.extend(kept)
        _compact(proto.graph)
        return checked(proto)


def _compact(graph: Any) -> None:
    """Equal constants once, short names: in a small network, names and zeros are a tenth of an int8 file."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants: dict[bytes, str] = {}
    kept = []
    for tensor in graph.initializer:
        name, tensor.name = tensor.name, ""
        content = tensor.SerializeToString(deterministic=True)
        if content not in constants:
            constants[content] = f"c{len(constants)}"
            kept.append(tensor)
        names[name] = tensor.name = constants[content]
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
        for side in (node.input, node.output):
            side[:] = [names.setdefault(name, f"t{len(names)}") if name else name for name in side]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # what can be inferred; the checker infers it again


class _Reader:
    """What onnxruntime's calibration asks for pictures."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._batches = iter([pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}

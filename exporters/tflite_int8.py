"""Full-integer TFLite files: int8 weights and activations, calibrated on real pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from exporters.graph import Graph
from exporters.tflite import annotated, attempt, emit, operators, parsed, tensorflow


class TfliteQuantiser:
    """Makes int8 files of one graph, with different operations left in float; pictures are run through it once.

    Works as TensorFlow's own QuantizationDebugger does, without the second, instrumented model that it makes each time.

    Args:
        calibration: ``uint8 [n, h, w, c]``, real pictures: activations are scaled to what these give.
        integer_io: int8 in (a picture's bytes less 128) and out instead of float32; then the normalisation, too, is
            int8, as processors want it that know no float.

    Raises:
        ExportError: TensorFlow cannot express or convert the graph. MissingExtraError: TensorFlow is not installed.
    """

    def __init__(self, graph: Graph, calibration: np.ndarray, metadata: dict[str, str], *, integer_io: bool) -> None:
        self._tf = tensorflow()
        self._shape, self._metadata, self._integer_io = graph.shape, metadata, integer_io

        def pictures() -> Iterator[list[np.ndarray]]:
            for picture in calibration:
                yield [picture[None].astype(np.float32)]

        def calibrated() -> bytes:
            function, root = emit(graph)
            converter = self._tf.lite.TFLiteConverter.from_concrete_functions([function], root)
            converter.optimizations = [self._tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = pictures
            converter.target_spec.supported_ops = [self._tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter._experimental_calibrate_only = True
            return bytes(converter.convert())

        self._calibrated = attempt(calibrated)

    def convert(self, keep_float: Collection[str] = ()) -> tuple[bytes, dict[str, int]]:
        """The int8 file, and how often each operator occurs in it.

        Args:
            keep_float: names of the graph's operations that are not to be quantised.

        Raises:
            ExportError: TensorFlow cannot convert it.
        """
        tensors = self._results_of(keep_float) if keep_float else []
        return annotated(attempt(lambda: self._quantised(tensors)), self._shape, self._metadata)

    def _results_of(self, names: Collection[str]) -> list[str]:
        """The tensors that operations of these names give in the int8 file; one may stand for several operations."""
        model = parsed(attempt(lambda: self._quantised([])))
        tensors = model.subgraphs[0].tensors
        results = [tensors[operator.outputs[0]].name.decode() for _, operator in operators(model)]
        return [result for result in results if any(part.split("/")[0] in names for part in result.split(";"))]

    def _quantised(self, float_tensors: list[str]) -> bytes:
        from tensorflow.lite.python.convert import mlir_quantize
        from tensorflow.lite.python.util import modify_model_io_type

        data = mlir_quantize(
            self._calibrated,
            denylisted_ops=[] if self._integer_io else ["L2_NORMALIZATION"],
            denylisted_nodes=float_tensors,
        )
        return bytes(modify_model_io_type(data, self._tf.int8, self._tf.int8) if self._integer_io else data)

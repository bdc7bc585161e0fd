"""Full-integer TFLite files: int8 weights and activations, calibrated on real pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from exporters.graph import Graph
from exporters.tflite import annotated, attempt, emit, operators, parsed, tensorflow


class TfliteQuantiser:
    """Makes int8 files of one graph, with different operations left in float; pictures are run through it once.

    Args:
        calibration: ``uint8 [n, h, w, c]``, real pictures: activations are scaled to what these give.
        integer_io: int8 in (a picture's bytes less 128) and out instead of float32; then the normalisation, too, is
            int8, as processors want it that know no float.

    Raises:
        ExportError: TensorFlow cannot express or convert the graph. MissingExtraError: TensorFlow is not installed.
    """

    def __init__(self, graph: Graph, calibration: np.ndarray, metadata: dict[str, str], *, integer_io: bool) -> None:
        self._tf = tensorflow()
        self._graph, self._metadata, self._integer_io = graph, metadata, integer_io
        self._float_operators = [] if integer_io else ["L2_NORMALIZATION"]
        function, root = emit(graph)

        def pictures() -> Iterator[list[np.ndarray]]:
            for picture in calibration:
                yield [picture[None].astype(np.float32)]

        converter = self._tf.lite.TFLiteConverter.from_concrete_functions([function], root)
        converter.optimizations = [self._tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = pictures
        converter.target_spec.supported_ops = [self._tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        self._debugger = attempt(
            lambda: self._tf.lite.experimental.QuantizationDebugger(
                converter=converter, debug_dataset=pictures, debug_options=self._options([])
            )
        )
        model = parsed(attempt(self._debugger.get_nondebug_quantized_model))
        tensors = model.subgraphs[0].tensors
        self._results = [tensors[operator.outputs[0]].name.decode() for _, operator in operators(model)]

    def convert(self, keep_float: Collection[str] = ()) -> tuple[bytes, dict[str, int]]:
        """The int8 file, and how often each operator occurs in it.

        Args:
            keep_float: names of the graph's operations that are not to be quantised.

        Raises:
            ExportError: TensorFlow cannot convert it.
        """
        names = [name for name in self._results if any(part.split("/")[0] in keep_float for part in name.split(";"))]
        self._debugger.options = self._options(names)
        return annotated(attempt(self._quantised), self._graph, self._metadata)

    def _quantised(self) -> bytes:
        from tensorflow.lite.python.util import modify_model_io_type

        data = self._debugger.get_nondebug_quantized_model()
        if not self._integer_io:
            return bytes(data)
        return bytes(modify_model_io_type(data, self._tf.int8, self._tf.int8))  # the debugger gives float in and out

    def _options(self, nodes: list[str]) -> Any:
        return self._tf.lite.experimental.QuantizationDebugOptions(
            denylisted_ops=self._float_operators, denylisted_nodes=nodes
        )

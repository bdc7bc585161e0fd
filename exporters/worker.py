"""Runs inside a process of its own: opens one model file after another in one runtime, and embeds pixels with it.

A script, not imported by anyone (workers.py starts it): it needs numpy and the runtime, and must load nothing else,
because tflite-runtime fails once TensorFlow is in the same process. Runtimes that are part of this project are imported
when they are asked for. Requests come on standard input, answers go to
standard output: one line of JSON each, ``size`` bytes behind it where it has ``size``. Whatever a library prints goes
to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO, cast

import numpy as np

INPUT_TYPES = {"float32": np.float32, "uint8": np.uint8, "int8": np.int8}


class TfliteModel:
    """A TFLite file in one of the three interpreters, which share their interface."""

    def __init__(self, interpreter: type, data: bytes, threads: int) -> None:
        self.interpreter = interpreter(model_content=data, num_threads=threads)
        self.interpreter.allocate_tensors()
        inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs instead of one of each")
        [self.input], [self.output] = inputs, outputs
        self.signature = {"input": _describe(self.input), "output": _describe(self.output)}

    def run(self, pixels: np.ndarray, batch_size: int = 1) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]`` picture by picture, whatever ``batch_size``: the file takes one."""
        rows = []
        for picture in _as_input(pixels, self.input["dtype"]):
            self.interpreter.set_tensor(self.input["index"], picture[None])
            self.interpreter.invoke()
            rows.append(self.interpreter.get_tensor(self.output["index"]).copy())
        return _as_float(np.concatenate(rows), self.output)


class OnnxModel:
    """An ONNX file in onnxruntime."""

    def __init__(self, runtime: Any, data: bytes, threads: int) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        self.session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        [source], [result] = self.session.get_inputs(), self.session.get_outputs()
        self.names = source.name, result.name
        self.signature = {
            "input": {"name": source.name, "dtype": source.type, "shape": list(source.shape)},
            "output": {"name": result.name, "dtype": result.type, "shape": list(result.shape)},
        }

    def run(self, pixels: np.ndarray, batch_size: int = 8) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]``."""
        source, result = self.names
        parts = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]
        return np.concatenate([self.session.run([result], {source: part})[0] for part in parts])


def _describe(tensor: dict[str, Any]) -> dict[str, Any]:
    scale, zero = tensor["quantization"]
    return {
        "name": tensor["name"],
        "dtype": np.dtype(tensor["dtype"]).name,
        "shape": [int(side) for side in tensor["shape"]],
        "scale": float(scale),
        "zero_point": int(zero),
    }


def _as_input(pixels: np.ndarray, dtype: Any) -> np.ndarray:
    """Pixels 0..255 as a file takes them; an int8 input is a byte less 128."""
    if np.dtype(dtype) == np.int8:
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    return pixels.astype(dtype)


def _as_float(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Embeddings in float32; integer ones are brought back to unit length, which 8 bits cannot hold."""
    scale, zero = tensor["quantization"]
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    rows = (values.astype(np.float64) - zero) * scale
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _open_litert(data: bytes, threads: int) -> TfliteModel:
    from ai_edge_litert.interpreter import Interpreter

    return TfliteModel(Interpreter, data, threads)


def _open_tensorflow(data: bytes, threads: int) -> TfliteModel:
    import tensorflow

    return TfliteModel(tensorflow.lite.Interpreter, data, threads)


def _open_tflite_runtime(data: bytes, threads: int) -> TfliteModel:
    from tflite_runtime.interpreter import Interpreter

    return TfliteModel(Interpreter, data, threads)


def _open_onnxruntime(data: bytes, threads: int) -> OnnxModel:
    import onnxruntime

    return OnnxModel(onnxruntime, data, threads)


def _open_coreml(data: bytes, threads: int) -> Any:
    _keep_frameworks_out()
    from exporters.coreml_runtime import CoreMLModel

    return CoreMLModel(data)


def _open_mil_reference(data: bytes, threads: int) -> Any:
    _keep_frameworks_out()
    from exporters.mil_reference import open_reference

    return open_reference(data, threads)


def _keep_frameworks_out() -> None:
    """Hide from coremltools what it would import only because it is there: TensorFlow takes five seconds."""
    for name in ("tensorflow", "sklearn"):
        sys.modules.setdefault(name, cast("Any", None))  # importing it then fails


RUNTIMES: dict[str, Callable[[bytes, int], Any]] = {
    "ai-edge-litert": _open_litert,
    "tensorflow": _open_tensorflow,
    "tflite-runtime": _open_tflite_runtime,
    "onnxruntime": _open_onnxruntime,
    "coreml": _open_coreml,
    "mil-reference": _open_mil_reference,
}


def serve(requests: BinaryIO, answers: BinaryIO, runtime: str) -> None:
    """Answer requests until they end: ``open`` (a model's bytes), ``run`` (pixels), ``time`` (how often)."""
    model: Any = None
    pixels = np.empty((0, 1, 1, 1), np.uint8)
    for line in requests:
        request = json.loads(line)
        data = requests.read(request.get("size", 0))
        payload = b""
        try:
            if request["do"] == "open":
                model = None  # a refused file must not leave the one before in its place
                model = RUNTIMES[runtime](data, request["threads"])
                answer = {"version": getattr(model, "version", "") or _version(runtime), "signature": model.signature}
            elif request["do"] == "run":
                pixels = np.frombuffer(data, np.uint8).reshape(request["shape"])
                vectors = np.ascontiguousarray(model.run(pixels, request["batch_size"]), np.float32)
                payload = vectors.tobytes()
                answer = {"shape": vectors.shape, "size": len(payload)}
            else:
                answer = {"milliseconds": _time(model, pixels[:1], request["runs"])}
        except Exception as error:  # whatever a runtime raises is an answer, too
            lines = [part.strip() for part in str(error).splitlines() if part.strip()]
            answer, payload = {"error": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"}, b""
        answers.write(json.dumps(answer).encode() + b"\n" + payload)
        answers.flush()


def _version(runtime: str) -> str:
    """Of the distribution with the runtime's name, else (onnxruntime-gpu, tensorflow-cpu) the module's own."""
    try:
        return version(runtime)
    except PackageNotFoundError:
        return str(getattr(sys.modules[runtime], "__version__", "unknown"))


def _time(model: Any, picture: np.ndarray, runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        model.run(picture)
        found.append((time.perf_counter() - start) * 1000)
    return found


def main() -> None:
    """Serve on the standard streams, which no library then gets to write to."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, sys.argv[1])


if __name__ == "__main__":
    main()

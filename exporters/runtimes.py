"""Runs an exported ONNX model through onnxruntime on the CPU, once it is known to be what its bundle says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.bundle import Bundle
from exporters.manifest import InputSpec, OutputSpec
from exporters.mlpackage import read_archive
from exporters.onnx_file import onnx_metadata
from exporters.tflite_file import tflite_metadata
from hetero.errors import BundleError, ConfigError, MissingExtraError

SPACE_KEY, PREPROCESS_KEY = "hetero.space_id", "hetero.preprocess_fingerprint"


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX model ready to run."""

    input: InputSpec
    output: OutputSpec
    session: Any  # onnxruntime.InferenceSession, which ships no types

    def embed(self, pixels: np.ndarray, *, batch_size: int = 8) -> np.ndarray:
        """Embed preprocessed pictures.

        Args:
            pixels: ``uint8 [n, height, width, channels]`` of the model's input size.
            batch_size: pictures a run; more are no faster on a processor, and slower once they outgrow its caches.

        Returns:
            ``float32 [n, dim]``, rows of unit length.

        Raises:
            ConfigError: pixels of another type or size, or a batch size below 1.
        """
        size = self.input.shape
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != size:
            raise ConfigError(
                "these pixels do not fit the model",
                got=f"{pixels.dtype} {list(pixels.shape)}",
                expected=f"uint8 {['n', *size]}",
                fix="preprocess the pictures with the bundle's PreprocessSpec",
            )
        if batch_size < 1:
            raise ConfigError("the batch size is too small", got=batch_size, expected="1 or more")
        vectors = np.empty((len(pixels), self.output.dim), np.float32)
        for start in range(0, len(pixels), batch_size):
            batch = np.ascontiguousarray(pixels[start : start + batch_size])
            vectors[start : start + batch_size] = self.session.run([self.output.name], {self.input.name: batch})[0]
        return vectors


def open_model(bundle: Bundle, *, precision: str = "fp32", threads: int = 1) -> OnnxModel:
    """Open a verified bundle's ONNX model. The bytes are hashed again, and those same bytes are what runs.

    Args:
        bundle: from :func:`exporters.bundle.open_bundle`, which verified it.
        threads: threads of one operator.

    Raises:
        BundleError: the file changed since, needs other files, does not load, or its graph, space or
            preprocessing is not the manifest's.
        MissingExtraError: onnxruntime is not installed.
    """
    entry = bundle.model_file(format="onnx", precision=precision)
    manifest, where = bundle.manifest, str(bundle.path / entry.path)
    data = bundle.read(entry.path)
    require_named(data, "onnx", manifest.space.id, manifest.preprocess.fingerprint(), where=where)
    return open_bytes(data, manifest.input, manifest.output, where=where, threads=threads)


def open_bytes(data: bytes, input: InputSpec, output: OutputSpec, *, where: str, threads: int = 1) -> OnnxModel:
    """Load a one-file ONNX model and check its signature: the exporter's fresh bytes, else :func:`open_model`.

    Raises:
        BundleError: not sound, not loadable, or another signature; ``where`` names the file.
        MissingExtraError: onnxruntime is not installed.
    """
    if threads < 1:
        raise ConfigError("the number of threads is too small", got=threads, expected="1 or more")
    onnx_metadata(data, where=where)  # refuses what is not sound
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # fatal only: an error comes as an exception, not on stderr
    try:
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise BundleError(
            f"onnxruntime cannot load {where}",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="export the bundle again with this hetero release",
        ) from error
    _check_signature(session, input, output, where)
    return OnnxModel(input=input, output=output, session=session)


def require_named(data: bytes, format: str, space_id: str, preprocess_fingerprint: str, *, where: str) -> None:
    """Refuse a file that is not sound, or not of this space and preprocessing.

    Raises:
        BundleError: it is not; ``where`` names the file.
    """
    expected = {SPACE_KEY: space_id, PREPROCESS_KEY: preprocess_fingerprint}
    if format == "coreml":
        model = read_archive(data, where=where).model
        # Metadata are strings in the protobuf; finding them needs no reader of it: a phone lab has none.
        found = {key: value for key, value in expected.items() if key.encode() in model and value.encode() in model}
    else:
        stored = (onnx_metadata if format == "onnx" else tflite_metadata)(data, where=where)
        found = {key: stored[key].decode("utf-8", "replace") for key in expected if key in stored}
    for key, value in expected.items():
        if found.get(key) != value:
            raise BundleError(
                f"{where} was exported for another {key.removeprefix('hetero.')} than its manifest names",
                got=ascii(found.get(key)),
                expected=value,
                fix="export the bundle again; files of two bundles were mixed",
            )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("running an ONNX model", "onnxruntime", "onnx") from error
    return onnxruntime


def _check_signature(session: Any, input: InputSpec, output: OutputSpec, where: str) -> None:
    declared: dict[str, list[tuple[str, str, list[int]]]] = {
        "inputs": [(input.name, "tensor(uint8)", [*input.shape])],
        "outputs": [(output.name, "tensor(float)", [output.dim])],
    }
    found = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    for kind, nodes in found.items():
        # The first dimension is the batch: a name where it is free, a number where it is not.
        signature = [(node.name, node.type, list((node.shape or [])[1:])) for node in nodes]
        if signature != declared[kind] or any(isinstance(node.shape[0], int) for node in nodes):
            raise BundleError(
                f"{where} has other {kind} than its manifest declares",
                got=ascii([(node.name, node.type, node.shape) for node in nodes]),
                expected=[(name, type_, ["batch", *shape]) for name, type_, shape in declared[kind]],
                fix="export the bundle again",
            )

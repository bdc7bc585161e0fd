"""A graph to the bytes of one file, by recipe; int8 files again and again with other layers left in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from exporters.calibration import Calibration
from exporters.content import content_of_coreml, content_of_onnx, content_of_tflite, require_content
from exporters.graph import Graph
from exporters.litert import LitertFiles
from exporters.manifest import Content, FileInput, FileOutput
from exporters.quantize import PALETTE, REDUCED, STATIC, WEIGHTS, Scheme
from exporters.recipes import Recipe
from hetero.errors import ConfigError, MissingExtraError

Metadata = dict[str, str]
Convert = Callable[[Collection[str]], tuple[bytes, dict[str, int]]]
"""Names of operations to keep in float → the file, and how often each operator occurs in it."""


@dataclass(frozen=True)
class Converted:
    """A file's bytes and what the manifest says of their inside."""

    data: bytes
    ops: dict[str, int]
    opset: int | None
    content: Content
    input: FileInput
    output: FileOutput
    kept_float: tuple[str, ...]


def scheme_of(recipe: Recipe) -> Scheme | None:
    """How a recipe rounds numbers, for its emulation in torch; None: half precision is taken for exact."""
    if recipe.calibrated:
        return REDUCED if recipe.format == "onnx" else STATIC
    return {"dynamic": WEIGHTS, "int8w": WEIGHTS, "palette6": PALETTE}.get(recipe.precision)


_PACKAGES = {"onnx": ("onnx", "onnxscript"), "tflite": ("tensorflow",), "coreml": ("coremltools", "sklearn")}


def require_converters(formats: Iterable[str]) -> None:
    """Look for what makes files of these formats, before any work is done.

    Raises:
        MissingExtraError: a package is not installed.
    """
    for format in formats:
        for package in _PACKAGES[format]:
            if find_spec(package) is None:
                name = "scikit-learn" if package == "sklearn" else package
                raise MissingExtraError(f"exporting to {format}", name, format)


def require_calibration(recipe: Recipe, calibration: Calibration | None) -> None:
    """Refuse a recipe that scales activations to pictures where there are none.

    Raises:
        ConfigError: naming the recipe and how to pass pictures.
    """
    if recipe.calibrated and calibration is None:
        raise ConfigError(
            f"{recipe.format} {recipe.precision} needs calibration pictures",
            got="none",
            expected="some hundred real pictures like those that will be embedded",
            fix="pass calibration=, or --data with a split train; random pictures scale activations wrongly",
        )


class Converter:
    """Makes the files of one recipe from one network.

    Args:
        network: the traced graph, or what litert-torch has made of a network that has none.
        metadata: strings kept in the files.
        calibration: for recipes that are calibrated.

    Raises:
        ConfigError: a calibrated recipe without calibration pictures.
        ExportError: the graph cannot be converted. MissingExtraError: a converter is not installed.
    """

    def __init__(
        self, recipe: Recipe, network: Graph | LitertFiles, metadata: Metadata, calibration: Calibration | None
    ) -> None:
        require_calibration(recipe, calibration)
        self.recipe, self.scheme = recipe, scheme_of(recipe)
        if isinstance(network, LitertFiles):
            self._convert: Convert = lambda _: network.to_tflite(recipe.precision, metadata)
        else:
            self._convert = _convert(recipe, network, metadata, calibration)

    def convert(self, keep_float: Collection[str] = ()) -> Converted:
        """The file, with these operations in float.

        Raises:
            ExportError: it cannot be converted, or the result is not what the recipe's name says.
        """
        data, ops = self._convert(keep_float)
        if self.recipe.format == "onnx":
            from exporters.onnx import OPSET

            opset: int | None = OPSET
            content = content_of_onnx(data)
            source, output = FileInput(dtype="uint8", layout="NHWC", batch="free"), FileOutput()
        elif self.recipe.format == "coreml":
            opset, content = None, content_of_coreml(data)
            source, output = FileInput(dtype="image", layout="NHWC", batch="one"), FileOutput()
        else:
            from exporters.tflite import output_of

            opset, content, output = None, content_of_tflite(data), output_of(data)
            dtype = "int8" if self.recipe.precision == "int8io" else "float32"
            source = FileInput.model_validate({"dtype": dtype, "layout": "NHWC", "batch": "one"})
        require_content(content, self.recipe, keep_float)
        return Converted(data, ops, opset, content, source, output, tuple(sorted(keep_float)))


def _convert(recipe: Recipe, graph: Graph, metadata: Metadata, calibration: Calibration | None) -> Convert:
    if recipe.format == "onnx":
        import torch

        from exporters.onnx import to_onnx

        if calibration is not None and recipe.calibrated:
            from exporters.onnx_int8 import OnnxQuantiser

            return OnnxQuantiser(to_onnx(graph, metadata)[0], calibration.pixels).convert
        dtype = torch.float16 if recipe.precision == "fp16" else torch.float32
        return lambda _: to_onnx(graph, metadata, dtype=dtype)
    if recipe.format == "coreml":
        from exporters.coreml import to_coreml

        return lambda _: to_coreml(graph, recipe.precision, metadata)
    if calibration is not None and recipe.calibrated:
        from exporters.tflite_int8 import TfliteQuantiser

        integer_io = recipe.precision == "int8io"
        return TfliteQuantiser(graph, calibration.pixels, metadata, integer_io=integer_io).convert
    from exporters.tflite import to_tflite

    return lambda _: to_tflite(graph, recipe.precision, metadata)

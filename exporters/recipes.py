"""What can be exported: one recipe for each format and precision, with the limits that its files are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hetero.errors import ConfigError, nearest

FP32_MAX_ABS = 1e-5
"""Largest difference of one component of a unit-length fp32 embedding. Two correct runtimes differ by the order of
their sums: 1e-7 to 1e-6 in the students measured here, which leaves a factor of ten to deep networks; a mean that is
wrong by one grey level moves components by 1e-3 and more."""


@dataclass(frozen=True)
class Recipe:
    """How one file is made. ``precision`` is the short name, ``name`` the one that decodes itself.

    In a name, ``w`` is followed by the type of the weights, ``a`` by that of the activations. ``limits`` are on the
    numbers of the parity ladder's first two rungs (``max_abs`` from above, the cosines from below). ``golden_max_abs``
    is how far the embeddings of one file may lie apart in two runtimes that compute it rightly.
    """

    format: Literal["onnx", "tflite", "coreml"]
    precision: Literal["fp32", "fp16", "dynamic", "int8w", "palette6"]
    name: str
    limits: Mapping[str, float]
    golden_max_abs: float

    @property
    def path(self) -> str:
        """Where the file lies in a bundle."""
        return f"{self.format}/model.{self.precision}.{_SUFFIXES.get(self.format, self.format)}"


_SUFFIXES = {"coreml": "mlpackage.zip"}
_FP32 = {"max_abs": FP32_MAX_ABS}
_FP16 = {"min_cosine": 0.999}
_INT8 = {"mean_cosine": 0.98}  # without a gallery the only limit there is: 8 bits cost a cosine of 0.001 to 0.01

RECIPES = (
    Recipe("onnx", "fp32", "fp32", _FP32, 1e-5),
    Recipe("tflite", "fp32", "fp32", _FP32, 1e-5),
    Recipe("tflite", "fp16", "wfp16_afp32", _FP16, 1e-3),
    Recipe("tflite", "dynamic", "dynamic_wi8_afp32", _INT8, 2e-2),
    # 5e-3: rounding each result to half precision moves components by up to 4e-3, in another order elsewhere.
    Recipe("coreml", "fp32", "fp32", _FP32, 1e-5),
    Recipe("coreml", "fp16", "wfp16_afp16", _FP16, 5e-3),
    Recipe("coreml", "int8w", "wi8_afp16", _INT8, 5e-3),
    Recipe("coreml", "palette6", "wpal6_afp16", _INT8, 5e-3),
)
RUNTIMES = {
    "onnx": ("onnxruntime",),
    "tflite": ("ai-edge-litert", "tensorflow", "tflite-runtime"),
    "coreml": ("coreml", "mil-reference"),
}
"""The runtimes that a format's files are measured in, the first one first."""
FORMATS = tuple(dict.fromkeys(recipe.format for recipe in RECIPES))


def chosen(formats: Sequence[str], precisions: Sequence[str]) -> list[Recipe]:
    """The recipes of these formats at these precisions, given by either name.

    Raises:
        ConfigError: an unknown name, none at all, a format that has none of the precisions, or the reverse.
    """
    known = [name for recipe in RECIPES for name in (recipe.precision, recipe.name)]
    for what, names, all_names in (("format", formats, FORMATS), ("precision", precisions, known)):
        if not names:
            raise ConfigError(f"no export {what} is named", expected=nearest("", all_names))
        for name in names:
            if name not in all_names:
                raise ConfigError(f"unknown export {what}", got=repr(name), expected=nearest(name, all_names))
    found = [
        recipe
        for recipe in RECIPES
        if recipe.format in formats and (recipe.precision in precisions or recipe.name in precisions)
    ]
    for what, names in (("format", formats), ("precision", precisions)):
        for name in names:
            if not any(name in (recipe.format, recipe.precision, recipe.name) for recipe in found):
                raise ConfigError(
                    f"nothing of this {what} is to be exported",
                    got=f"{name}, of {', '.join(formats)} at {', '.join(precisions)}",
                    expected="; ".join(f"{recipe.format} {recipe.precision}" for recipe in RECIPES),
                )
    return found

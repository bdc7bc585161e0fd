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


Format = Literal["onnx", "tflite", "coreml"]
Precision = Literal["fp32", "fp16", "dynamic", "int8", "int8io", "int8w", "palette6"]


@dataclass(frozen=True)
class Recipe:
    """How one file is made. ``precision`` is the short name, ``name`` the one that decodes itself.

    In a name, ``w`` is followed by the type of the weights, ``a`` by that of the activations, ``io`` by that of the
    picture and the embedding where it is no float. ``limits`` are on the numbers of the parity ladder.
    ``golden_max_abs`` is how far the embeddings of one file may lie apart in two runtimes that compute it rightly.
    ``calibrated``: activations are scaled to pictures, so calibration pictures are needed, and the file is compared
    with torch on pictures like them.
    """

    format: Format
    precision: Precision
    name: str
    limits: Mapping[str, float]
    golden_max_abs: float
    calibrated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """By which it can be asked for; ``int8`` means Core ML's int8 weights, the nearest that it has."""
        alias = ("int8",) if self.precision == "int8w" else ()
        return self.precision, self.name, *alias

    @property
    def path(self) -> str:
        """Where the file lies in a bundle."""
        return f"{self.format}/model.{self.precision}.{_SUFFIXES.get(self.format, self.format)}"


_SUFFIXES = {"coreml": "mlpackage.zip"}
_SEARCH = {
    "r_at_1_delta": -0.005,
    "map_at_r_delta": -0.01,
    "lost": 0.03,
    "true_accept_delta": -0.02,
    "false_accept_ratio": 1.25,
}
"""What a file may cost against the gallery: half a point of R@1, one of mAP@R, 3 % of the queries' right first matches
(int8 lost 1 to 2 %, and won as many), and at the calibrated thresholds 2 points of true accepts and a quarter more
false ones."""
_FP32 = {"max_abs": FP32_MAX_ABS, **_SEARCH}
_ALIVE = {"self_r_at_1": 0.5}  # pictures may be so alike that 8 bits confuse some; a dead file confuses nearly all
_FP16 = {"min_cosine": 0.999, **_ALIVE, **_SEARCH}
_INT8 = {"mean_cosine": 0.98, **_ALIVE, **_SEARCH}  # for want of a gallery: 8 bits cost 0.001 to 0.01 of the cosine

RECIPES = (
    Recipe("onnx", "fp32", "fp32", _FP32, 1e-5),
    Recipe("onnx", "fp16", "wfp16_afp16", _FP16, 5e-3),
    Recipe("onnx", "int8", "static_wi8_ai8", _INT8, 5e-2, calibrated=True),
    Recipe("tflite", "fp32", "fp32", _FP32, 1e-5),
    Recipe("tflite", "fp16", "wfp16_afp32", _FP16, 1e-3),
    Recipe("tflite", "dynamic", "dynamic_wi8_afp32", _INT8, 2e-2),
    Recipe("tflite", "int8", "static_wi8_ai8", _INT8, 5e-2, calibrated=True),
    Recipe("tflite", "int8io", "static_wi8_ai8_ioi8", _INT8, 5e-2, calibrated=True),
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
    known = tuple(dict.fromkeys(name for recipe in RECIPES for name in recipe.names))
    short = tuple(dict.fromkeys(name for recipe in RECIPES for name in (recipe.precision, *recipe.names[2:])))
    for what, names, all_names, told in (
        ("format", formats, FORMATS, FORMATS),
        ("precision", precisions, known, short),
    ):
        if isinstance(names, str) or not names:
            got = repr(names) if names else None
            raise ConfigError(f"no list of export {what}s is given", got=got, expected=nearest("", told))
        for name in names:
            if name not in all_names:
                raise ConfigError(f"unknown export {what}", got=repr(name), expected=nearest(name, told))
    found = [
        recipe for recipe in RECIPES if recipe.format in formats and any(name in precisions for name in recipe.names)
    ]
    for what, names in (("format", formats), ("precision", precisions)):
        for name in names:
            if not any(name in (recipe.format, *recipe.names) for recipe in found):
                others = precisions if what == "format" else formats
                there = [recipe for recipe in RECIPES if name in (recipe.format, *recipe.names)]
                raise ConfigError(
                    f"there is no {name} of {', '.join(others)}",
                    got=f"formats {', '.join(formats)}, precisions {', '.join(precisions)}",
                    expected="one of " + ", ".join(f"{recipe.format} {recipe.precision}" for recipe in there),
                )
    return found


def missing(formats: Sequence[str], precisions: Sequence[str]) -> list[str]:
    """The combinations that were named, such as ``onnx dynamic``, and that no recipe is for."""
    return [
        f"{format} {name}"
        for format in dict.fromkeys(formats)
        for name in dict.fromkeys(precisions)
        if not any(recipe.format == format and name in recipe.names for recipe in RECIPES)
    ]

"""The parity ladder: which runtimes count as right, and what is said when none does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.diagnose import likely_cause
from exporters.fold import fold
from exporters.ladder import Measured, Probes, exceeded, measure
from exporters.manifest import FileInput, FileOutput, InputSpec, OutputSpec
from exporters.onnx import to_onnx
from exporters.parity import probe_pixels, reference_embeddings
from exporters.recipes import FP32_MAX_ABS, RECIPES, Recipe, chosen
from exporters.signature import Signature, signature_of
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.errors import ConfigError, ExportError, RuntimeFailedError

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, SPEC, mixed

PIXELS = probe_pixels((SPEC.height, SPEC.width, SPEC.channels))
PICTURE, OUTPUT = InputSpec(height=16, width=12, channels=3), OutputSpec(dim=DIM)
EXPECTED = signature_of(FileInput(dtype="uint8", layout="NHWC", batch="free"), FileOutput(), PICTURE, OUTPUT)
NUM_GOLDEN = 4
FP32 = Recipe("onnx", "fp32", "fp32", {"max_abs": FP32_MAX_ABS}, 1e-5)


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    return to_onnx(fold(trace(mixed(), SPEC)), {})[0]


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return reference_embeddings(mixed(), PIXELS, SPEC)


@pytest.fixture(scope="module")
def worker() -> Iterator[RuntimeWorker]:
    with RuntimeWorker("onnxruntime") as started:
        yield started


class Off:
    """A runtime that answers ``error`` too much in every component, or refuses the file."""

    def __init__(self, inner: RuntimeWorker, error: float | None) -> None:
        self.inner, self.error, self.version = inner, error, "9.9"

    def open(self, data: bytes) -> dict[str, Any]:
        if self.error is None:
            raise RuntimeFailedError("this runtime cannot open this file")
        return self.inner.open(data)

    def run(self, pixels: np.ndarray, *, batch_size: int = 8) -> np.ndarray:
        return self.inner.run(pixels, batch_size=batch_size) + np.float32(self.error)


def climb(data: bytes, reference: np.ndarray, workers: dict[str, Any], recipe: Recipe = FP32) -> Measured:
    probes = Probes(PIXELS, reference, NUM_GOLDEN)
    measured = measure(data, recipe, EXPECTED, probes, workers)
    measured.require_passed(recipe, likely_cause(measured, probes, mixed(), SPEC))
    return measured


def test_a_right_file_passes_and_its_vectors_are_kept(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker
) -> None:
    found = climb(onnx_file, reference, {"onnxruntime": worker})
    assert [rung.rung for rung in found.ladder] == ["tensor", "cosine", "retrieval", "flips", "thresholds"]
    assert [rung.status for rung in found.ladder] == ["passed", "passed"] + ["not measured"] * 3
    assert found.ladder[0].measured["max_abs"] == pytest.approx(np.abs(found.vectors - reference).max(), rel=1e-6)
    assert found.ladder[1].limits == {}  # no limit of this recipe: it informs


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (1e-3, r"onnxruntime 9\.9: max_abs 0\.00100.*; expected max_abs ≤ 1e-05; fix: .*less precisely"),
        (0.5, r"max_abs 0\.5.*fix: .*check mean and std"),
        (float("nan"), r"cannot be compared.*fix: look at what each runtime says"),
        (None, r"this runtime cannot open this file.*fix: look at what each runtime says"),
    ],
)
def test_a_wrong_file_is_refused_with_its_numbers_and_the_likely_cause(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker, error: float | None, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        climb(onnx_file, reference, {"onnxruntime": Off(worker, error)})


def test_one_right_runtime_is_enough_and_the_wrong_one_is_recorded_as_wrong(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.ladder.RUNTIMES", {"onnx": ("tensorflow", "onnxruntime")})
    found = climb(onnx_file, reference, {"tensorflow": Off(worker, 1e-3), "onnxruntime": worker})
    bad, good = found.runtimes
    assert (bad.right, good.right) == (False, True)
    assert bad.reason.startswith("max_abs 0.001")
    assert found.ladder[0].measured["max_abs"] < FP32_MAX_ABS  # the right one's numbers, not the wrong one's


def test_a_runtime_too_far_from_the_first_right_one_is_wrong_for_the_golden_embeddings(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.ladder.RUNTIMES", {"onnx": ("onnxruntime", "tensorflow")})
    near = Recipe("onnx", "fp32", "fp32", {"max_abs": 1e-2}, 1e-4)
    found = climb(onnx_file, reference, {"onnxruntime": worker, "tensorflow": Off(worker, 1e-3)}, near)
    assert [result.right for result in found.runtimes] == [True, False]
    assert "from onnxruntime on the golden pictures" in found.runtimes[1].reason


def test_limits_hold_for_the_golden_pictures_alone_too(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker
) -> None:
    mean = Recipe("onnx", "fp32", "fp32", {"mean_cosine": 0.9}, 1e-4)
    other = reference.copy()
    other[:NUM_GOLDEN] = -other[:NUM_GOLDEN]  # on all pictures the mean cosine is low, on the golden ones negative
    other[0] = reference[0]
    with pytest.raises(ExportError, match="mean_cosine"):
        climb(onnx_file, other, {"onnxruntime": worker}, mean)
    loose = Recipe("onnx", "fp32", "fp32", {"mean_cosine": 0.5}, 1e-4)
    with pytest.raises(ExportError, match=r"mean_cosine -.* on the golden pictures"):
        climb(onnx_file, other, {"onnxruntime": worker}, loose)


def test_a_file_that_takes_something_else_than_declared_is_refused(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker
) -> None:
    declared: Signature = signature_of(
        FileInput(dtype="float32", layout="NHWC", batch="free"), FileOutput(), PICTURE, OUTPUT
    )
    measured = measure(onnx_file, FP32, declared, Probes(PIXELS, reference, NUM_GOLDEN), {"onnxruntime": worker})
    with pytest.raises(ExportError, match=r"takes or gives something else than declared; got .*uint8"):
        measured.require_passed(FP32, "")


def test_exceeded_bounds_maxima_from_above_and_cosines_from_below() -> None:
    parity = {"max_abs": 0.25, "min_cosine": 0.5, "mean_cosine": 0.75}
    assert exceeded(parity, {"max_abs": 0.25, "min_cosine": 0.5, "mean_cosine": 0.75}) == []
    assert exceeded(parity, {"max_abs": 0.24, "min_cosine": 0.51, "mean_cosine": 0.76}) == [
        "max_abs",
        "min_cosine",
        "mean_cosine",
    ]


def test_chosen_takes_either_name_and_keeps_the_order_of_the_table() -> None:
    assert chosen(["tflite"], ["wfp16_afp32", "fp32"]) == [
        recipe for recipe in RECIPES if recipe.format == "tflite" and recipe.precision in ("fp32", "fp16")
    ]
    assert [recipe.path for recipe in chosen(["onnx", "tflite"], ["fp32"])] == [
        "onnx/model.fp32.onnx",
        "tflite/model.fp32.tflite",
    ]


def test_every_recipe_has_a_limit_and_a_name_of_its_own() -> None:
    assert all(recipe.limits and recipe.golden_max_abs > 0 for recipe in RECIPES)
    assert len({recipe.path for recipe in RECIPES}) == len(RECIPES)
    with pytest.raises(ConfigError, match="nearest: dynamic"):
        chosen(["tflite"], ["dynamc"])
    with pytest.raises(
        ConfigError, match=r"there is no onnx of dynamic; .*expected one of onnx fp32, onnx fp16, onnx int8"
    ):
        chosen(["onnx", "tflite"], ["dynamic"])

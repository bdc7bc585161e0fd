"""The parity ladder: which runtimes count as right, and what is said when none does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.diagnose import likely_cause
from exporters.fold import fold
from exporters.ladder import Measured, Probes, measure
from exporters.manifest import FileInput, FileOutput, InputSpec, OutputSpec, exceeded, status_of
from exporters.onnx import to_onnx
from exporters.parity import probe_pixels, reference_embeddings
from exporters.recipes import FP32_MAX_ABS, RECIPES, Recipe, chosen
from exporters.retrieval import Judge, RetrievalTest
from exporters.signature import Signature, signature_of
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.errors import ConfigError, ExportError, RuntimeFailedError
from hetero.preprocess import PreprocessSpec

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


class Turned(Off):
    """The first two components are turned by an angle, in radians: other numbers of the same length."""

    def run(self, pixels: np.ndarray, *, batch_size: int = 8) -> np.ndarray:
        vectors = self.inner.run(pixels, batch_size=batch_size).copy()
        cos, sin = np.cos(self.error), np.sin(self.error)
        vectors[:, :2] = vectors[:, :2] @ np.array([[cos, sin], [-sin, cos]], np.float32)
        return vectors


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
    assert [rung.status for rung in found.ladder] == ["passed", "no limit"] + ["not measured"] * 3
    assert found.ladder[0].measured["max_abs"] == pytest.approx(np.abs(found.vectors - reference).max(), rel=1e-6)
    assert found.ladder[1].limits == {}  # no limit of this recipe: it informs


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (5e-5, r"onnxruntime 9\.9: max_abs 5\.0.*e-05; expected max_abs ≤ 1e-05; fix: .*less precisely"),
        (1e-3, r"onnxruntime 9\.9: max_abs 0\.00100.*; expected max_abs ≤ 1e-05; fix: .*check mean and std"),
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
    found = climb(onnx_file, reference, {"onnxruntime": worker, "tensorflow": Turned(worker, 0.01)}, near)
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


FP16 = next(recipe for recipe in RECIPES if (recipe.format, recipe.precision) == ("onnx", "fp16"))
TWO = {"onnx": ("onnxruntime", "tensorflow")}


class Fixed:
    """A runtime that answers the same rows whatever the pictures are; after ``breaks`` calls it fails."""

    def __init__(self, inner: RuntimeWorker, rows: np.ndarray, *, breaks: int = 1000) -> None:
        self.inner, self.rows, self.calls, self.breaks, self.version = inner, rows, 0, breaks, "9.9"

    def open(self, data: bytes) -> dict[str, Any]:
        return self.inner.open(data)

    def run(self, pixels: np.ndarray, *, batch_size: int = 8) -> np.ndarray:
        self.calls += 1
        if self.calls > self.breaks:
            raise RuntimeFailedError("this runtime crashed")
        return np.resize(self.rows, (len(pixels), DIM))


def test_a_file_that_gives_one_embedding_for_all_does_not_pass_for_its_cosines(
    onnx_file: bytes, worker: RuntimeWorker
) -> None:
    """Embeddings that lie close together, as after a ReLU: the mean of them has a cosine of 0.99 with each."""
    random = np.random.default_rng(0)
    close = unit(np.ones(DIM) + random.normal(0, 0.02, (len(PIXELS), DIM)))
    dead = unit(close.mean(0, keepdims=True))
    found = measure(onnx_file, FP16, EXPECTED, Probes(PIXELS, close, NUM_GOLDEN), {"onnxruntime": Fixed(worker, dead)})
    assert found.ladder[1].measured["min_cosine"] > FP16.limits["min_cosine"]
    assert found.ladder[1].measured["self_r_at_1"] < 0.2
    assert not found.passed
    assert "self_r_at_1" in found.reason()


def test_wrong_lengths_are_wrong_though_every_cosine_is_right(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker
) -> None:
    workers = {"onnxruntime": Fixed(worker, 3 * reference)}
    found = measure(onnx_file, FP16, EXPECTED, Probes(PIXELS, reference, NUM_GOLDEN), workers)
    assert found.ladder[1].measured["min_cosine"] > 0.9999
    assert not found.passed
    assert "lengths differ from 1 by up to 2" in found.reason()


@pytest.mark.parametrize(
    ("queries", "reason"), [(None, "this runtime crashed"), (np.nan, "not of unit length"), (1.04, "a length off by")]
)
def test_a_runtime_that_fails_on_the_queries_is_wrong_and_the_next_is_asked(
    onnx_file: bytes,
    reference: np.ndarray,
    worker: RuntimeWorker,
    monkeypatch: pytest.MonkeyPatch,
    queries: float | None,
    reason: str,
) -> None:
    monkeypatch.setattr("exporters.ladder.RUNTIMES", TWO)

    class Later(Fixed):
        def run(self, pixels: np.ndarray, *, batch_size: int = 8) -> np.ndarray:
            rows = super().run(pixels, batch_size=batch_size)
            return rows if self.calls == 1 or queries is None else rows * np.float32(queries)

    labels = np.arange(len(PIXELS)) // 2
    test = RetrievalTest.of_arrays("probes", PIXELS, labels, reference, labels)
    judge = Judge(test, lambda pixels: reference, ())
    later = Later(worker, reference, breaks=1 if queries is None else 1000)
    probes = Probes(PIXELS, reference, NUM_GOLDEN)
    found = measure(
        onnx_file, FP32, EXPECTED, probes, {"onnxruntime": later, "tensorflow": Fixed(worker, reference)}, judge=judge
    )
    assert [result.right for result in found.runtimes] == [False, True]
    assert reason in str(found.runtimes[0].reason)
    assert found.passed
    assert found.ladder[2].measured["r_at_1_delta"] == 0.0
    alone = measure(onnx_file, FP32, EXPECTED, probes, {"onnxruntime": Later(worker, reference, breaks=1)}, judge=judge)
    assert not alone.passed
    assert alone.ladder[2].status == "not measured"


def test_an_allowed_rung_makes_no_broken_runtime_the_one_that_others_are_compared_with(
    onnx_file: bytes, reference: np.ndarray, worker: RuntimeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.ladder.RUNTIMES", TWO)
    workers: dict[str, Any] = {"onnxruntime": Fixed(worker, reference[::-1].copy())}
    workers["tensorflow"] = Fixed(worker, reference)
    probes = Probes(PIXELS, reference, NUM_GOLDEN)
    found = measure(onnx_file, FP32, EXPECTED, probes, workers, allow=["tensor"])
    assert [result.right for result in found.runtimes] == [False, True]
    assert found.vectors is not None
    np.testing.assert_array_equal(found.vectors, reference)
    workers["tensorflow"] = Turned(worker, 0.01)  # breaks the limit, too, but lies nearer to torch
    found = measure(onnx_file, FP32, EXPECTED, probes, workers, allow=["tensor"])
    assert [result.right for result in found.runtimes] == [False, True]


def test_few_queries_leave_a_file_that_loses_none_undecided() -> None:
    limits = {"r_at_1_delta": -0.005}
    for low, status in ((-0.03, "undecided"), (-0.004, "passed")):
        assert status_of({"r_at_1_delta": 0.0, "r_at_1_low": low}, limits) == status
    assert status_of({"r_at_1_delta": -0.01, "r_at_1_low": -0.03}, limits) == "failed"
    assert status_of({"max_abs": 0.1}, {}) == "no limit"
    assert status_of({}, limits) == "not measured"


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (lambda pixels, spec: (pixels, shifted(spec, 1)), r"mean is wrong, by about \+1(\.0)? grey levels"),
        (lambda pixels, spec: (pixels, shifted(spec, -20)), r"mean is wrong, by about -20 grey levels"),
        (lambda pixels, spec: (pixels, shifted(spec, 90)), r"mean is wrong, by about \+90 grey levels"),
        (lambda pixels, spec: (255 - pixels, spec), "the negative of the picture"),
        (lambda pixels, spec: (pixels[:, ::-1], spec), "upside down"),
        (lambda pixels, spec: (pixels[:, :, ::-1], spec), "mirrored"),
        (
            lambda pixels, spec: (
                pixels,
                spec.model_copy(
                    update={side: tuple(v * 256 / 255 for v in getattr(spec, side)) for side in ("mean", "std")}
                ),
            ),
            "divides by 256 instead of 255",
        ),
        (lambda pixels, spec: (pixels[:1].repeat(len(pixels), 0), spec), "same embedding for every picture"),
    ],
)
def test_what_a_file_does_wrong_to_every_picture_is_named(
    onnx_file: bytes,
    reference: np.ndarray,
    worker: RuntimeWorker,
    wrong: Callable[[np.ndarray, PreprocessSpec], tuple[np.ndarray, PreprocessSpec]],
    cause: str,
) -> None:
    pixels, spec = wrong(PIXELS, SPEC)
    rows = reference_embeddings(mixed(), pixels, spec)
    with pytest.raises(ExportError, match=cause):
        climb(onnx_file, reference, {"onnxruntime": Fixed(worker, rows)})


def shifted(spec: PreprocessSpec, level: float) -> PreprocessSpec:
    return spec.model_copy(update={"mean": tuple(value + level / 255 for value in spec.mean)})


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

"""Milliseconds a picture: each file in each runtime that is right for it, one thread, warmed up, the median."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters import Bundle, verify
from exporters.latency import latency
from exporters.manifest import Manifest
from exporters.workers import RuntimeWorker
from hetero.errors import BundleError, ConfigError


class Spied:
    """What is asked of every worker, in order; the answers are the worker's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.times: list[list[float]] = []
        ask, time_ms = RuntimeWorker._ask, RuntimeWorker.time_ms

        def spy(worker: RuntimeWorker, request: dict[str, Any], data: bytes, *, timeout_s: float) -> Any:
            self.asked.append((worker.runtime, request["do"], {**request, "data": data}))
            return ask(worker, request, data, timeout_s=timeout_s)

        def keep(worker: RuntimeWorker, runs: int) -> list[float]:
            self.times.append(time_ms(worker, runs))
            return self.times[-1]

        monkeypatch.setattr(RuntimeWorker, "_ask", spy)
        monkeypatch.setattr(RuntimeWorker, "time_ms", keep)


def test_files_are_timed_in_right_runtimes_on_one_thread_after_a_warm_up(
    measured: Bundle, varied: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFLite fp32 of the varied manifest is wrong in its last runtime, and there is no TFLite int8."""
    spied = Spied(monkeypatch)
    found = latency(replace(measured, manifest=varied), runs=7)
    assert {path: list(timed) for path, timed in found.items()} == {
        file.path: [result.name for result in file.runtimes if result.right] for file in varied.files
    }
    assert "tflite-runtime" not in found["tflite/model.fp32.tflite"]
    golden = np.load(measured.path / "golden" / "pixels.npy")[0]
    timed = [(file, name) for file in varied.files for name in found[file.path]]
    for place, (file, name) in enumerate(timed):
        asked = spied.asked[4 * place : 4 * place + 4]
        assert [do for _, do, _ in asked] == ["open", "run", "time", "time"]
        assert {runtime for runtime, _, _ in asked} == {name}
        assert asked[0][2]["data"] == measured.read(file.path)
        assert asked[0][2]["threads"] == 1
        assert asked[1][2]["data"] == golden.tobytes()
        assert asked[2][2]["runs"] >= 3
        warm_up, times = spied.times[2 * place : 2 * place + 2]
        assert len(times) == 7
        assert found[file.path][name] == sorted(times)[3]
        assert found[file.path][name] > 0
        assert times is not warm_up
    assert len(spied.asked) == 4 * len(timed)


def test_what_is_not_installed_is_not_timed_and_the_bundle_stays_as_it_is(
    measured: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.latency.is_installed", lambda name: name == "onnxruntime")
    found = latency(measured, runs=1)
    assert [list(timed) for timed in found.values()] == [["onnxruntime"], ["onnxruntime"], [], []]
    monkeypatch.setattr("exporters.latency.is_installed", lambda name: False)
    assert latency(measured) == {file.path: {} for file in measured.manifest.files}
    monkeypatch.undo()
    assert verify(measured.path).passed


def test_a_file_that_changed_or_is_another_reaches_no_runtime(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spied = Spied(monkeypatch)
    onnx, tflite = measured.manifest.files[0], measured.manifest.files[2]
    other_space = measured.read(tflite.path).replace(measured.space.id.encode(), b"hs1-" + b"0" * 24)
    content = {onnx.path: measured.read(onnx.path)[:-1], tflite.path: other_space}
    for file, message in ((onnx, "is cut off or damaged"), (tflite, "exported for another space_id")):
        only = replace(measured, manifest=measured.manifest.model_copy(update={"files": (file,)}))
        read = Bundle.read

        def other(bundle: Bundle, path: str, read: Any = read) -> bytes:
            return content.get(path) or read(bundle, path)

        with monkeypatch.context() as patched:
            patched.setattr(Bundle, "read", other)
            with pytest.raises(BundleError, match=message):
                latency(only)
    assert spied.asked == []


def test_a_file_that_takes_something_else_is_refused(measured: Bundle) -> None:
    file = measured.manifest.files[0]
    other = file.model_copy(update={"input": file.input.model_copy(update={"dtype": "float32"})})
    with pytest.raises(BundleError, match="takes or gives something else than declared"):
        latency(replace(measured, manifest=measured.manifest.model_copy(update={"files": (other,)})))


def test_no_runs_are_refused(measured: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"too few runs.*got 0"):
        latency(measured, runs=0)

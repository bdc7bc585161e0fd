"""Runtimes in processes of their own: what they return, and what happens when they refuse, crash or hang."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from exporters import workers
from exporters.fold import fold
from exporters.onnx import to_onnx
from exporters.parity import probe_pixels, reference_embeddings
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.errors import ConfigError, MissingExtraError, RuntimeFailedError

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, SPEC, mixed

posix = pytest.mark.skipif(os.name != "posix", reason="stops and kills a real process by POSIX signals")
PIXELS = probe_pixels((SPEC.height, SPEC.width, SPEC.channels))


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    return to_onnx(fold(trace(mixed(), SPEC)), {})[0]


def test_a_worker_embeds_times_and_describes(onnx_file: bytes) -> None:
    with RuntimeWorker("onnxruntime") as worker:
        signature = worker.open(onnx_file)
        found = worker.run(PIXELS)
        times = worker.time_ms(3)
    assert signature["input"] == {"name": "image", "dtype": "tensor(uint8)", "shape": ["batch", 16, 12, 3]}
    assert signature["output"]["shape"] == ["batch", DIM]
    np.testing.assert_allclose(found, reference_embeddings(mixed(), PIXELS, SPEC), atol=1e-5)
    assert len(times) == 3
    assert min(times) > 0


def test_a_refused_file_is_an_error_and_the_worker_lives_on(onnx_file: bytes) -> None:
    with RuntimeWorker("onnxruntime") as worker:
        worker.open(onnx_file)
        with pytest.raises(RuntimeFailedError, match=r"onnxruntime cannot open this file; got .*INVALID_PROTOBUF"):
            worker.open(onnx_file[: len(onnx_file) // 2])
        with pytest.raises(RuntimeFailedError, match="cannot run this file"):
            worker.run(PIXELS)  # not with whatever was open before
        worker.open(onnx_file)
        with pytest.raises(RuntimeFailedError, match=r"onnxruntime cannot run this file; got .*INVALID_ARGUMENT"):
            worker.run(PIXELS[:, :5])
        assert worker.run(PIXELS[:2]).shape == (2, DIM)


@posix
def test_a_crash_names_the_signal(onnx_file: bytes) -> None:
    with RuntimeWorker("onnxruntime") as worker:
        worker.open(onnx_file)
        os.kill(worker._process.pid, signal.SIGSEGV)
        with pytest.raises(RuntimeFailedError, match=r"crashed when asked to run this file; got 'signal 11"):
            worker.run(PIXELS)
        worker.open(onnx_file)  # in a fresh process
        assert worker.run(PIXELS[:2]).shape == (2, DIM)


@posix
def test_a_worker_that_hangs_is_ended_and_said_to_be_late(onnx_file: bytes) -> None:
    with RuntimeWorker("onnxruntime") as worker:
        worker.open(onnx_file)
        os.kill(worker._process.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeFailedError, match=r"did not run this file in time; expected 0\.3 s"):
            worker.run(PIXELS, timeout_s=0.3)
        assert worker._process.poll() is not None


def test_closing_lets_the_process_end_by_itself() -> None:
    worker = RuntimeWorker("onnxruntime")
    worker.close()
    assert worker._process.poll() == 0


@posix
def test_closing_kills_a_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CLOSE_TIMEOUT_S", 0.2)
    worker = RuntimeWorker("onnxruntime")
    os.kill(worker._process.pid, signal.SIGSTOP)
    worker.close()
    assert worker._process.poll() == -signal.SIGKILL


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown runtime; got 'onnxruntim'; .*nearest: onnxruntime"):
        RuntimeWorker("onnxruntim")


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'hetero\[tflite-runtime\]'"):
        RuntimeWorker("tflite-runtime")

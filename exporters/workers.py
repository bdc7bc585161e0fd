"""Each runtime in a process of its own, which may crash or hang without taking the caller along."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from exporters.recipes import RUNTIMES
from hetero.errors import ConfigError, MissingExtraError, RuntimeFailedError, nearest

_MODULES = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert",
    "tensorflow": "tensorflow",
    "tflite-runtime": "tflite_runtime",
    "coreml": "coremltools",
    "mil-reference": "coremltools",
}
_PACKAGES = {"coreml": "coremltools", "mil-reference": "coremltools"}  # of a runtime that is no package itself
_EXTRA = {"onnxruntime": "onnx", "ai-edge-litert": "tflite", "tensorflow": "tflite", "tflite-runtime": "tflite-runtime"}
_EXTRA |= {"coreml": "coreml", "mil-reference": "coreml"}
START_TIMEOUT_S = 120.0  # importing TensorFlow on a cold disk takes most of a minute
RUN_TIMEOUT_S = 600.0
CLOSE_TIMEOUT_S = 10.0
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
"""For glibc, bytes: what a picture's results took is kept for the next one's, which makes torch there twice as fast."""
_WORKER = Path(__file__).with_name("worker.py")


class RuntimeWorker:
    """A runtime in its own process; close it, or use it in a ``with`` block.

    Raises, from each method, :class:`~hetero.errors.RuntimeFailedError`: the runtime refused the file, crashed (naming
    the signal) or did not answer in time. The next :meth:`open` then starts a fresh process.
    """

    def __init__(self, runtime: str) -> None:
        if runtime not in _MODULES:
            raise ConfigError("unknown runtime", got=repr(runtime), expected=nearest(runtime, _MODULES))
        if not is_installed(runtime):
            raise MissingExtraError(f"running a model in {runtime}", package_of(runtime), _EXTRA[runtime])
        self.runtime = runtime
        self.version = "unknown"  # until a file was opened
        self._start()

    def _start(self) -> None:
        self._asking = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        try:
            self._process = subprocess.Popen(
                # -P: this folder has modules called onnx and trace, which no library may find there.
                [sys.executable, "-P", str(_WORKER), self.runtime],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**_KEEP_MEMORY, **os.environ},
            )
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> RuntimeWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process: it goes by itself once nobody asks any more, and is killed if it does not."""
        if self._asking:  # interrupted in the middle of a request: what is in the pipes cannot be finished
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not sent to a dead process
                    stream.close()
        self._wait()
        self._log.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def open(self, data: bytes, *, threads: int = 1) -> dict[str, Any]:
        """Open a model from its bytes, in place of the one before: ``input`` and ``output`` as the runtime has them."""
        if self._process.poll() is not None:
            self.close()
            self._start()
        answer, _ = self._ask({"do": "open", "threads": threads}, data, timeout_s=START_TIMEOUT_S)
        self.version = answer["version"]
        signature: dict[str, Any] = answer["signature"]
        return signature

    def run(self, pixels: np.ndarray, *, batch_size: int = 8, timeout_s: float = RUN_TIMEOUT_S) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]``, n ≥ 1, with the model opened last: ``float32 [n, dim]``.

        A file that takes one picture at a time ignores ``batch_size``.
        """
        request = {"do": "run", "shape": pixels.shape, "batch_size": batch_size}
        answer, payload = self._ask(request, np.ascontiguousarray(pixels, np.uint8).tobytes(), timeout_s=timeout_s)
        return np.frombuffer(payload, np.float32).reshape(answer["shape"])

    def time_ms(self, runs: int) -> list[float]:
        """Milliseconds of ``runs`` embeddings of the first picture of the last :meth:`run`."""
        answer, _ = self._ask({"do": "time", "runs": runs}, b"", timeout_s=RUN_TIMEOUT_S)
        found: list[float] = answer["milliseconds"]
        return found

    def _ask(self, request: dict[str, Any], data: bytes, *, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101  (both are pipes)
        assert stdout is not None  # noqa: S101
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        alarm = threading.Timer(timeout_s, give_up)
        alarm.daemon = True
        self._asking = True
        alarm.start()
        try:
            stdin.write(json.dumps({**request, "size": len(data)}).encode() + b"\n" + data)
            stdin.flush()
            line = stdout.readline()
            answer = json.loads(line) if line else {}
            size = answer.get("size", 0)
            payload = stdout.read(size) if size else b""
        except OSError:  # a pipe to a process that is gone; its class differs between systems
            answer, payload, size = {}, b"", 0
        finally:
            alarm.cancel()
        self._asking = False
        if not answer or len(payload) != size:
            raise self._death(late.is_set(), timeout_s, request["do"])
        if "error" in answer:
            what = f"{self.runtime} cannot {request['do']} this file"
            raise RuntimeFailedError(what, got=ascii(answer["error"])[:500])
        return answer, payload

    def _death(self, late: bool, timeout_s: float, doing: str) -> RuntimeFailedError:
        code = self._wait()
        if late:
            return RuntimeFailedError(f"{self.runtime} did not {doing} this file in time", expected=f"{timeout_s:g} s")
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        what = f"{self.runtime} crashed when asked to {doing} this file"
        return RuntimeFailedError(what, got=ascii(f"{how}; {lines[-1] if lines else ''}")[:500])


def is_installed(runtime: str) -> bool:
    """Whether a runtime is installed, under whichever distribution's name; nothing is imported.

    ``coreml`` is part of macOS and nowhere else.
    """
    if runtime == "coreml" and sys.platform != "darwin":
        return False
    return (runtime != "mil-reference" or find_spec("torch") is not None) and find_spec(_MODULES[runtime]) is not None


def package_of(runtime: str) -> str:
    """What to install for a runtime: itself, but for Core ML's two."""
    return _PACKAGES.get(runtime, runtime)


@contextlib.contextmanager
def start(formats: Iterable[str]) -> Iterator[dict[str, RuntimeWorker]]:
    """A worker of each installed runtime of these formats, by name; ended with the ``with`` block.

    Raises:
        MissingExtraError: a format has no installed runtime.
    """
    with contextlib.ExitStack() as stack:
        workers = {}
        for format in formats:
            names = [name for name in RUNTIMES[format] if is_installed(name)]
            if not names:
                raise MissingExtraError(f"running a {format} file", package_of(RUNTIMES[format][0]), format)
            workers.update({name: stack.enter_context(RuntimeWorker(name)) for name in names})
        yield workers

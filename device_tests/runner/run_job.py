"""Executes one job on a device: ``python3 run_job.py job.json``, in the job's folder. See docs/device-protocol.md.

One file, numpy and the runtime only, Python 3.8 or newer: it is copied to the device and shares no code with the host
that judges what it gives. It embeds and measures; it never scores. Progress goes to standard output, a line of JSON
each. Exit codes: 0 ``result.json`` says ok, 3 it says why the job failed, anything else: there is no result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

SCHEMA = 1
FAILED = 3
PROGRESS_INTERVAL_S = 1.0
ABIS = {"arm64-v8a": "aarch64", "arm64": "aarch64", "amd64": "x86_64", "armeabi-v7a": "armv7l", "x86": "i686"}


class JobFailedError(Exception):
    """The job cannot be done; ``kind`` is one of the contract's."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Tflite:
    """A TFLite file in one of the interpreters, which share their interface."""

    def __init__(self, module: Any, data: bytes, job: dict[str, Any]) -> None:
        asked = job["delegate"]
        if asked not in ("auto", "none", "xnnpack"):
            raise JobFailedError("no-delegate", f"{job['runtime']} in Python has no delegate {asked!r}")
        kinds = module.OpResolverType
        resolver = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if asked == "none" else kinds.AUTO
        self.interpreter = module.Interpreter(
            model_content=data, num_threads=job["threads"], experimental_op_resolver_type=resolver
        )
        self.interpreter.allocate_tensors()
        [self.source], [self.result] = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        self.shape = [int(side) for side in self.source["shape"]][1:]
        self.delegate = delegated(self.interpreter)
        if asked == "xnnpack" and not self.delegate["nodes_taken"]:
            raise JobFailedError("no-delegate", f"XNNPACK took none of the {self.delegate['nodes']} nodes")

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """One picture ``uint8 [h, w, c]`` as the file gives it, ``[dim]``."""
        value = picture.astype(np.int16) - 128 if self.source["dtype"] == np.int8 else picture
        self.interpreter.set_tensor(self.source["index"], value.astype(self.source["dtype"])[None])
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.result["index"])[0]

    def as_float(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings ``float32 [n, dim]``; integers are brought back, to unit length, which 8 bits cannot hold."""
        if rows.dtype.kind == "f":
            return rows.astype(np.float32)
        scale, zero = self.result["quantization"]
        vectors = (rows.astype(np.float64) - zero) * scale
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def delegated(interpreter: Any) -> dict[str, Any]:
    """Which of the file's nodes a delegate took: those from which its outputs follow, back to its inputs."""
    nodes = interpreter._get_ops_details()
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    maker = {int(tensor): place for place, node in enumerate(own) for tensor in node["outputs"]}
    taken = set()
    for node in nodes:
        if node["op_name"] == "DELEGATE":
            given = {int(tensor) for tensor in node["inputs"]}
            pending = [int(tensor) for tensor in node["outputs"]]
            while pending:
                place = maker.get(pending.pop())
                if place is not None and place not in taken:
                    taken.add(place)
                    pending += [int(tensor) for tensor in own[place]["inputs"] if int(tensor) not in given]
    return {"name": "XNNPACK" if taken else None, "nodes_taken": len(taken), "nodes": len(own)}


PROVIDERS = {
    "auto": "CPUExecutionProvider",
    "none": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "qnn": "QNNExecutionProvider",
}


class Onnx:
    """An ONNX file in onnxruntime."""

    def __init__(self, module: Any, data: bytes, job: dict[str, Any]) -> None:
        asked, there = job["delegate"], module.get_available_providers()
        provider = PROVIDERS.get(asked)
        if provider is None or provider not in there:
            raise JobFailedError("no-delegate", f"this onnxruntime has no {asked}, only {', '.join(there)}")
        options = module.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        options.log_severity_level = 4
        self.session = module.InferenceSession(data, options, providers=[provider])
        [source], [result] = self.session.get_inputs(), self.session.get_outputs()
        self.names = source.name, result.name
        self.shape = list(source.shape)[1:]
        self.delegate = {"name": None, "nodes_taken": 0, "nodes": None}
        if asked not in ("auto", "none"):
            self.delegate = assigned(module, data, provider, np.zeros((1, *self.shape), np.uint8))
            if not self.delegate["nodes_taken"]:
                raise JobFailedError("no-delegate", f"{provider} took none of the {self.delegate['nodes']} nodes")

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """One picture ``uint8 [h, w, c]``: ``float32 [dim]``."""
        source, result = self.names
        return self.session.run([result], {source: picture[None]})[0][0]

    def as_float(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings as they are, ``float32 [n, dim]``."""
        return rows.astype(np.float32)


def assigned(module: Any, data: bytes, provider: str, picture: np.ndarray) -> dict[str, Any]:
    """Which nodes an execution provider ran, by onnxruntime's own profile of one run."""
    options = module.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(os.getcwd(), "profile")
    session = module.InferenceSession(data, options, providers=[provider])
    session.run(None, {session.get_inputs()[0].name: picture})
    path = session.end_profiling()
    with open(path, encoding="utf-8") as stream:
        events = json.load(stream)
    os.remove(path)
    ran = [event["args"]["provider"] for event in events if "provider" in event.get("args", {})]
    return {"name": provider, "nodes_taken": ran.count(provider), "nodes": len(ran)}


def open_model(job: dict[str, Any], data: bytes) -> tuple[Any, str]:
    """The model in the job's runtime, and the runtime's version."""
    name = job["runtime"]
    try:
        if name == "ai-edge-litert":
            import ai_edge_litert.interpreter as module
        elif name == "tflite-runtime":
            import tflite_runtime.interpreter as module
        elif name == "onnxruntime":
            import onnxruntime as module
        else:
            raise JobFailedError("no-runtime", f"this runner knows no runtime {name!r}")
    except ImportError as error:
        raise JobFailedError("no-runtime", f"{name} is not installed here: {error}") from error
    try:
        model = (Onnx if name == "onnxruntime" else Tflite)(module, data, job)
    except JobFailedError:
        raise
    except Exception as error:  # whatever a runtime raises
        raise JobFailedError("refused", f"{name} cannot load the model: {type(error).__name__}: {error}") from error
    try:
        return model, version(name)
    except PackageNotFoundError:
        return model, str(getattr(module, "__version__", "unknown"))


def checked_bytes(entry: dict[str, Any]) -> bytes:
    """A file's content, where it has the hash that the job says."""
    try:
        with open(entry["path"], "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise JobFailedError("wrong-file", f"cannot read {entry['path']}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise JobFailedError("wrong-file", f"{entry['path']} has sha256 {digest}, and the job says {entry['sha256']}")
    return data


def pictures(job: dict[str, Any], shape: list[int]) -> np.ndarray:
    """All inputs, one after the other, ``uint8 [n, h, w, c]``."""
    parts = []
    for entry in job["inputs"]:
        data = checked_bytes(entry)
        pixels = np.frombuffer(data, np.uint8, offset=len(data) - int(np.prod(entry["shape"]))).reshape(entry["shape"])
        if list(pixels.shape[1:]) != shape:
            raise JobFailedError(
                "signature", f"the model takes pictures {shape}, and {entry['path']} has {entry['shape']}"
            )
        parts.append(pixels)
    return np.concatenate(parts)


def embed_all(model: Any, pixels: np.ndarray, job: dict[str, Any]) -> tuple[np.ndarray, list[float], list[float]]:
    """Embeddings ``float32 [n, dim]``, and milliseconds of each warm-up and of each picture."""
    warmup = [timed(model.embed, pixels[0])[1] for _ in range(job["warmup"])]
    rows, latency, told = [], [], time.monotonic()
    for number, picture in enumerate(pixels, start=1):
        row, milliseconds = timed(model.embed, picture)
        rows.append(row)
        latency.append(milliseconds)
        if time.monotonic() - told >= PROGRESS_INTERVAL_S or number == len(pixels):
            told = time.monotonic()
            sys.stdout.write(json.dumps({"done": number, "total": len(pixels)}) + "\n")
            sys.stdout.flush()
    return model.as_float(np.stack(rows)), warmup, latency


def timed(work: Callable[[Any], Any], argument: Any) -> tuple[Any, float]:
    """What ``work`` returns, and how many milliseconds it took."""
    start = time.perf_counter()
    found = work(argument)
    return found, (time.perf_counter() - start) * 1000


def require_alive(vectors: np.ndarray, dim: int) -> None:
    """Refuse embeddings that nothing can be found with."""
    if vectors.shape[1:] != (dim,):
        raise JobFailedError(
            "signature", f"embeddings have shape {list(vectors.shape)}, and the job says dimension {dim}"
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise JobFailedError(
            "bad-embedding", f"{int(bad.sum())} embeddings are not finite, first that of picture {bad.argmax()}"
        )
    zero = ~vectors.any(axis=1)
    if zero.any():
        raise JobFailedError(
            "bad-embedding", f"{int(zero.sum())} embeddings are zero, first that of picture {zero.argmax()}"
        )
    if len(vectors) > 1 and (vectors == vectors[0]).all():
        raise JobFailedError("bad-embedding", f"all {len(vectors)} pictures have the same embedding")


def execute(job: dict[str, Any], result: dict[str, Any]) -> None:
    """Do the job, writing what is found into ``result``."""
    machine = platform.machine()
    if ABIS.get(job["abi"], job["abi"]) != ABIS.get(machine, machine):
        raise JobFailedError("wrong-abi", f"this is {machine}, and the job is for {job['abi']}")
    data = checked_bytes(job["model"])
    (model, found), result["load_ms"] = timed(lambda content: open_model(job, content), data)
    result["runtime"] = {"name": job["runtime"], "version": found}
    result["delegate"] = {"asked": job["delegate"], **model.delegate}
    pixels = pictures(job, model.shape)
    vectors, result["warmup_ms"], latency = embed_all(model, pixels, job)
    require_alive(vectors, job["dim"])
    median, p90, p99 = np.percentile(latency, [50, 90, 99]).tolist()
    result["latency_ms"] = {"median": median, "p90": p90, "p99": p99, "each": latency}
    np.save(job["embeddings"] + ".part.npy", vectors, allow_pickle=False)
    os.replace(job["embeddings"] + ".part.npy", job["embeddings"])
    with open(job["embeddings"], "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    result["embeddings"] = {"path": job["embeddings"], "sha256": digest, "shape": list(vectors.shape)}


def main(path: str) -> int:
    """Execute the job at ``path`` and write its result."""
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):  # what a runtime leaves behind goes with the job's folder
        os.environ[name] = os.getcwd()
    with open(path, encoding="utf-8") as stream:
        job = json.load(stream)
    if job["schema_version"] != SCHEMA:
        sys.exit(f"this runner knows jobs of schema {SCHEMA}, not {job['schema_version']}")
    result = {
        "schema_version": SCHEMA,
        "nonce": job["nonce"],
        "status": "ok",
        "failure": None,
        "device_kind": job["device_kind"],
        "abi": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "runtime": {"name": job["runtime"], "version": None},
        "threads": job["threads"],
        "delegate": {"asked": job["delegate"], "name": None, "nodes_taken": None, "nodes": None},
        "model_sha256": job["model"]["sha256"],
        "input_sha256": [entry["sha256"] for entry in job["inputs"]],
        "embeddings": None,
        "load_ms": None,
        "warmup_ms": [],
        "latency_ms": None,
        "peak_rss_bytes": 0,
    }
    try:
        execute(job, result)
    except JobFailedError as failure:
        result["status"], result["failure"] = "failed", {"kind": failure.kind, "message": str(failure)}
    except Exception as error:  # the host must learn why, whatever it was
        result["status"] = "failed"
        result["failure"] = {"kind": "error", "message": f"{type(error).__name__}: {error}"}
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open(job["result"] + ".part", "w", encoding="utf-8") as stream:
        json.dump(result, stream)
    os.replace(job["result"] + ".part", job["result"])
    return 0 if result["status"] == "ok" else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""``result.json``: what a device says it did, checked against the job. Specified in docs/device-protocol.md."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError

from device_tests.device import DeviceKind
from device_tests.errors import JobError, TransferError, printable
from device_tests.job import DelegateName, Job, Record, RuntimeName
from exporters.manifest import SafePath, Sha256
from exporters.npy import parse_npy
from hetero.validation import validation_lines

MAX_RESULT_BYTES = 1 << 26  # 13,000 latencies are 300 kB
FailureKind = Literal[
    "wrong-file", "wrong-abi", "no-runtime", "no-delegate", "refused", "signature", "bad-embedding", "error"
]


Told = Annotated[str, AfterValidator(printable)]
"""What a device says, fit to be shown."""
Milliseconds = Annotated[float, Field(ge=0, le=86_400_000.0)]  # a day


class Failure(Record):
    """Why a job failed."""

    kind: FailureKind
    message: Told


class RuntimeRecord(Record):
    """The runtime that ran; its version is None where it could not be loaded."""

    name: RuntimeName
    version: Told | None


class DelegateRecord(Record):
    """Which delegate was asked for, which took nodes, and how many of the model's; None: not known."""

    asked: DelegateName
    name: Told | None
    nodes_taken: int | None = Field(ge=0)
    nodes: int | None = Field(ge=0)


class EmbeddingsRef(Record):
    """The embeddings, a ``.npy`` file of ``float32 [pictures, dim]``."""

    path: SafePath
    sha256: Sha256
    shape: tuple[int, int]


class Latency(Record):
    """Milliseconds from picture to embedding: quantiles, and each picture's."""

    median: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    each: tuple[Milliseconds, ...]


class DeviceResult(Record):
    """A job's result; ``embeddings`` and ``latency_ms`` are there where ``status`` is ``ok``."""

    schema_version: Literal[1]
    nonce: str
    status: Literal["ok", "failed"]
    failure: Failure | None
    device_kind: DeviceKind
    abi: str
    system: Told
    python: Told | None
    runtime: RuntimeRecord
    threads: int
    delegate: DelegateRecord
    model_sha256: Sha256
    input_sha256: tuple[Sha256, ...]
    embeddings: EmbeddingsRef | None
    load_ms: Milliseconds | None
    warmup_ms: tuple[Milliseconds, ...]
    latency_ms: Latency | None
    peak_rss_bytes: int = Field(ge=0)


def parse_result(raw: bytes, job: Job, *, device: str) -> DeviceResult:
    """Read a result and hold it to its job.

    Raises:
        JobError: no result of the schema, or of another job, other files, another runtime or another processor.
    """
    try:
        result = DeviceResult.model_validate_json(raw)
    except ValidationError as error:
        raise JobError(
            f"{job.result} does not fit the schema",
            device=device,
            got=ascii(validation_lines(error))[:400],
            fix="use a runner that follows docs/device-protocol.md",
        ) from error
    asked = {
        "nonce": (result.nonce, job.nonce),
        "model": (result.model_sha256, job.model.sha256),
        "inputs": (list(result.input_sha256), [entry.sha256 for entry in job.inputs]),
        "runtime": (result.runtime.name, job.runtime),
        "delegate": (result.delegate.asked, job.delegate),
        "threads": (result.threads, job.threads),
        "device kind": (result.device_kind, job.device_kind),
    }
    if result.status == "ok":
        shape = None if result.embeddings is None else result.embeddings.shape
        asked["embeddings"] = (shape, (job.pictures, job.dim))
        timed = None if result.latency_ms is None else len(result.latency_ms.each)
        asked["latencies"] = (timed, job.pictures)
        asked["abi"] = (result.abi, job.abi)
        if job.delegate not in ("auto", "none"):
            asked["delegate"] = (result.delegate.name is not None and bool(result.delegate.nodes_taken), True)
    for name, (got, expected) in asked.items():
        if got != expected:
            raise JobError(
                f"{job.result} is of another job: its {name} differ",
                device=device,
                got=ascii(got)[:200],
                expected=ascii(expected)[:200],
                fix="use a runner that follows docs/device-protocol.md",
            )
    if (result.status == "failed") != (result.failure is not None):
        raise JobError(f"{job.result} says {result.status} and not why, or why and not failed", device=device)
    return result


def parse_embeddings(raw: bytes, result: DeviceResult, *, device: str) -> np.ndarray:
    """The embeddings ``float32 [n, dim]`` of a result that is ``ok``.

    Raises:
        TransferError: not the bytes that the result names: part of them was lost on the way.
        JobError: they are no such array, or hold values that are not finite, zero or all the same.
    """
    entry = result.embeddings
    assert entry is not None  # noqa: S101  (parse_result saw to it)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != entry.sha256:
        raise TransferError(
            "the embeddings are not those that the device wrote",
            device=device,
            command=f"pull {entry.path}",
            got=f"{len(raw)} bytes, sha256 {digest[:16]}…",
            expected=f"sha256 {entry.sha256[:16]}…",
        )
    try:
        vectors = parse_npy(raw, "float32", entry.shape)
    except ValueError as error:
        what = f"{entry.path} is no .npy file of float32 {list(entry.shape)}"
        raise JobError(what, device=device, got=error) from error
    dead = ~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)
    if dead.any() or (len(vectors) > 1 and (vectors == vectors[0]).all()):
        raise JobError(
            "the device gave embeddings that nothing can be found with",
            device=device,
            got=f"{int(dead.sum())} of {len(vectors)} zero or not finite" if dead.any() else "one for all pictures",
            fix="run hetero verify on the bundle; if that passes, the runtime or delegate of the device is wrong",
        )
    return vectors

"""``job.json``: what a device is asked to do. Specified in docs/device-protocol.md."""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from device_tests.device import DeviceKind
from exporters.manifest import SafePath, Sha256

JOB_SCHEMA = 1
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
"""The runtimes that the runner knows."""
DELEGATES = ("auto", "none", "xnnpack", "nnapi", "qnn", "gpu")
"""``auto``: what the runtime takes by itself; ``none``: its plain kernels; others must take nodes, or the job fails."""
WARMUP_RUNS = 3
RuntimeName = Literal["onnxruntime", "ai-edge-litert", "tflite-runtime"]
DelegateName = Literal["auto", "none", "xnnpack", "nnapi", "qnn", "gpu"]


class Record(BaseModel):
    """Base of the contract's records: unknown keys and other types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileRef(Record):
    """A file of the job by its path in the job's folder."""

    path: SafePath
    sha256: Sha256


class PixelsRef(FileRef):
    """Preprocessed pictures, a ``.npy`` file of ``uint8 [n, height, width, channels]``."""

    shape: Annotated[tuple[int, ...], Field(min_length=4, max_length=4)]


class Job(Record):
    """Embed all pictures of ``inputs``, in this order, with ``model``.

    Attributes:
        nonce: comes back in the result, so that an older result cannot be taken for this one.
        abi: of the processor that the job is for; the runner refuses to run on another.
        dim: of an embedding.
        embeddings, result: the files to write, in the job's folder.
    """

    schema_version: Literal[1] = 1
    nonce: str = Field(min_length=16, max_length=64)
    runtime: RuntimeName
    delegate: DelegateName
    threads: int = Field(gt=0)
    warmup: int = Field(ge=0)
    device_kind: DeviceKind
    abi: str
    model: FileRef
    inputs: tuple[PixelsRef, ...] = Field(min_length=1)
    dim: int = Field(gt=0)
    embeddings: SafePath
    result: SafePath

    @property
    def pictures(self) -> int:
        """How many embeddings come back."""
        return sum(entry.shape[0] for entry in self.inputs)


def new_nonce() -> str:
    """A word that no other job has."""
    return secrets.token_hex(16)


def ref(path: str, data: bytes) -> FileRef:
    """A file's entry in a job."""
    return FileRef(path=path, sha256=hashlib.sha256(data).hexdigest())

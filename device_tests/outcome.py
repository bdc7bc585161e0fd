"""What became of a cell on a device, what goes in, and keeping it: a finished cell is not run again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from device_tests.cells import Cell
from device_tests.errors import DeviceError
from device_tests.job import Job, PixelsRef, Record, ref
from device_tests.native import Benchmark
from device_tests.result import DeviceResult, parse_embeddings, parse_result
from exporters.npy import npy_bytes
from hetero import atomic

JOB, RESULT, EMBEDDINGS, CONDITIONS = "job.json", "result.json", "embeddings.npy", "conditions.json"


@dataclass(frozen=True)
class Inputs:
    """What every cell embeds: the golden pictures, then the queries, both ``uint8 [n, h, w, c]``."""

    golden: np.ndarray
    queries: np.ndarray
    files: dict[str, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        files = {"golden.npy": npy_bytes(self.golden), "queries.npy": npy_bytes(self.queries)}
        object.__setattr__(self, "files", files)

    @property
    def refs(self) -> tuple[PixelsRef, ...]:
        """Their entries in a job."""
        shapes = {"golden.npy": self.golden.shape, "queries.npy": self.queries.shape}
        return tuple(PixelsRef(**ref(name, data).model_dump(), shape=shapes[name]) for name, data in self.files.items())


class Conditions(Record):
    """Of the device: its temperature before and after, in degrees Celsius, and its battery, in percent."""

    temperature_c: tuple[float | None, float | None] = (None, None)
    battery_percent: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one cell on one device.

    Attributes:
        status: ``ok``: there are embeddings; ``not run``: it cannot be run there; ``failed``: it should have worked;
            ``latency only``: a benchmark tool ran it.
        reason: why it is not ``ok``.
        golden, queries: ``float32 [n, dim]``; None where not ``ok``.
        resumed: it was finished by an earlier call.
    """

    cell: Cell
    status: Literal["ok", "not run", "failed", "latency only"]
    reason: str | None = None
    result: DeviceResult | None = None
    golden: np.ndarray | None = None
    queries: np.ndarray | None = None
    conditions: Conditions | None = None
    resumed: bool = False
    benchmark: Benchmark | None = None


def save_outcome(folder: Path, job: Job, result: bytes, embeddings: bytes, conditions: Conditions) -> None:
    """Keep a finished cell, all of it or nothing.

    Raises:
        StorageError: the file system refused.
    """
    with atomic.directory(folder, marker=RESULT) as target:
        (target / JOB).write_bytes(job.model_dump_json(indent=2).encode())
        (target / EMBEDDINGS).write_bytes(embeddings)
        (target / CONDITIONS).write_bytes(conditions.model_dump_json().encode())
        (target / RESULT).write_bytes(result)


def stored_outcome(folder: Path, cell: Cell, inputs: Inputs, expected: Job) -> Outcome | None:
    """A cell that was finished before; None where it was not, or what is there is not whole or of another job.

    Args:
        expected: what the device would be asked for now; only the nonce may differ.
    """
    try:
        job = Job.model_validate_json((folder / JOB).read_bytes())
        if job.model_copy(update={"nonce": expected.nonce}) != expected:
            return None
        result = parse_result((folder / RESULT).read_bytes(), job, device="stored")
        vectors = parse_embeddings((folder / EMBEDDINGS).read_bytes(), result, device="stored")
        conditions = Conditions.model_validate_json((folder / CONDITIONS).read_bytes())
    except (OSError, ValueError, DeviceError):
        return None
    if result.status != "ok":
        return None
    return replace(ok_outcome(cell, inputs, result, vectors, conditions), resumed=True)


def ok_outcome(
    cell: Cell, inputs: Inputs, result: DeviceResult, vectors: np.ndarray, conditions: Conditions
) -> Outcome:
    """The outcome of a cell that gave these ``vectors [pictures, dim]``."""
    split = len(inputs.golden)
    return Outcome(cell, "ok", None, result, vectors[:split], vectors[split:], conditions)

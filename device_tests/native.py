"""Programs that a user supplies for a phone, where no Python runs: one that follows the job contract, or TFLite's
benchmark tool, which measures latency and gives no embedding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hetero.errors import ConfigError, nearest

RunnerKind = Literal["python", "job", "tflite-benchmark"]
"""``python`` is hetero's own ``run_job.py``; the others are programs that a user supplies."""
BENCHMARK_RUNS = 50
_MAX_RUNNER_BYTES = 1 << 28
_SUMMARY = re.compile(r"^count=(\d+) .*?min=(\S+) max=(\S+) avg=(\S+)", re.MULTILINE)
_LOAD = re.compile(r"Inference timings in us: Init: (\d+)")


@dataclass(frozen=True)
class Runner:
    """What is pushed to a device to execute a job there, and how it is used."""

    kind: RunnerKind
    data: bytes


@dataclass(frozen=True)
class Benchmark:
    """What the benchmark tool measured, in milliseconds an inference."""

    runs: int
    mean_ms: float
    min_ms: float
    max_ms: float
    load_ms: float | None


def read_runner(path: Path | None, kind: str) -> Runner | None:
    """The program at ``path``; None for none.

    Raises:
        ConfigError: an unknown kind, or a file that cannot be read or is too large to be a program.
    """
    kinds = get_args(RunnerKind)[1:]
    if kind not in kinds:
        raise ConfigError("unknown kind of runner", got=repr(kind), expected=nearest(kind, kinds))
    if path is None:
        return None
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"the runner {path} is not a plain file", fix="name the program itself")
        with open(path, "rb") as stream:
            data = stream.read(_MAX_RUNNER_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the runner {path}", got=error.strerror, fix="check the path") from error
    if len(data) > _MAX_RUNNER_BYTES:
        raise ConfigError(f"{path} is too large for a program", expected=f"at most {_MAX_RUNNER_BYTES} bytes")
    return Runner("job" if kind == "job" else "tflite-benchmark", data)


def benchmark_argv(program: str, model: str, *, threads: int, warmup: int, delegate: str) -> tuple[str, ...] | None:
    """How TFLite's ``benchmark_model`` is called; None where it has no such delegate."""
    chosen: dict[str, tuple[str, ...]] = {
        "auto": (),
        "none": ("--use_xnnpack=false",),
        "xnnpack": ("--use_xnnpack=true",),
        "nnapi": ("--use_nnapi=true",),
        "gpu": ("--use_gpu=true",),
    }
    counts = (f"--num_runs={BENCHMARK_RUNS}", f"--warmup_runs={warmup}", f"--num_threads={threads}")
    if delegate not in chosen:
        return None
    return (program, f"--graph={model}", *counts, *chosen[delegate])


def parse_benchmark(text: str) -> Benchmark | None:
    """The last summary line that ``benchmark_model`` prints; None where there is none.

    >>> parse_benchmark("count=50 first=2400 curr=2301 min=2290 max=2500 avg=2320.5 std=31").mean_ms
    2.3205
    """
    found = list(_SUMMARY.finditer(text))
    if not found:
        return None
    try:
        least, most, mean = (float(found[-1].group(place)) / 1000 for place in (2, 3, 4))
    except ValueError:
        return None
    load = _LOAD.search(text)
    return Benchmark(int(found[-1].group(1)), mean, least, most, int(load.group(1)) / 1000 if load else None)

"""Exact search of 10,000 × 128-d queries against 1,000,000 vectors, top 10: torch alone against faiss IndexFlatIP."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hetero.retrieval.exact import search_torch

QUERIES, VECTORS, DIM, TOP = 10_000, 1_000_000, 128, 10
THREADS = 2
PARTS = 4  # the queries are searched in parts, ours and faiss in turn, so that both see the same load of the machine
SPEED_GOAL = 0.5
MEMORY_GOAL_GB = 2.0


def run(num_queries: int = QUERIES, num_vectors: int = VECTORS) -> list[dict[str, object]]:
    """``{name, ratio, against, goal, better}`` of the speed and of the memory over the vectors (in GB, 10⁹ bytes)."""
    import faiss
    import torch

    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    queries, vectors = unit_vectors(num_queries, seed=1), unit_vectors(num_vectors, seed=2)
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    search_torch(queries[:64], vectors, TOP)
    index.search(queries[:64], TOP)
    ratios = []
    for part in np.array_split(queries, PARTS):
        ours, (_, found) = _timed(search_torch, part, vectors, TOP)
        theirs, (_, expected) = _timed(index.search, part, TOP)
        agreement = float((found == expected).mean())
        if agreement < 0.999:  # float32 ties may be ordered otherwise
            raise RuntimeError(f"the two searches agree in {agreement:.4f} of their results only")
        ratios.append(theirs / ours)
    size = f"{num_queries:,} × {DIM}-d queries, {num_vectors:,} vectors, top {TOP}, {THREADS} threads"
    return [
        {
            "name": f"exact search on torch, speed, {size}",
            "ratio": round(statistics.median(ratios), 3),
            "against": "faiss IndexFlatIP",
            "goal": SPEED_GOAL,
            "better": "higher",
        },
        {
            "name": f"exact search on torch, peak memory in GB over the vectors, {size}",
            "ratio": round(_memory_in_a_child(num_queries, num_vectors), 3),
            "against": "1 GB",
            "goal": MEMORY_GOAL_GB,
            "better": "lower",
        },
    ]


def unit_vectors(num: int, *, seed: int) -> np.ndarray:
    """``float32 [num, DIM]`` random directions, made in place: no second copy raises the peak memory."""
    vectors = np.random.default_rng(seed).standard_normal((num, DIM), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def memory_over_vectors_gb(num_queries: int, num_vectors: int) -> float:
    """Peak resident memory during one search over the resident memory before it, in 10⁹ bytes; Linux only."""
    import torch

    torch.set_num_threads(THREADS)
    queries, vectors = unit_vectors(num_queries, seed=1), unit_vectors(num_vectors, seed=2)
    resident = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM; ru_maxrss would still hold the parent's peak
    search_torch(queries, vectors, TOP)
    return (_status_bytes("VmHWM") - resident) / 1e9


def _status_bytes(key: str) -> int:
    """A line of Linux's ``/proc/self/status``, which counts in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _memory_in_a_child(num_queries: int, num_vectors: int) -> float:
    command = [sys.executable, __file__, "--memory", str(num_queries), str(num_vectors)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout)


def _timed(search: Callable[..., tuple[np.ndarray, np.ndarray]], *arguments: object) -> tuple[float, Any]:
    start = time.perf_counter()
    result = search(*arguments)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", nargs=2, type=int, metavar=("QUERIES", "VECTORS"), help="measure the memory only")
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory_over_vectors_gb(*arguments.memory))
    else:
        print(json.dumps(run(), indent=1))

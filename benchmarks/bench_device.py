"""The device harness beside what it wraps: pushing against the adb program, a whole check against its runner alone."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device_tests import emulated
from device_tests.adb import BASE
from device_tests.cells import Settings, choose_cells
from device_tests.check import run_check
from device_tests.queries import load_queries
from exporters import open_bundle
from hetero.retrieval.gallery import Item, open_gallery, write_gallery

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "omniglot"
NAME = "bench"
SIZE_BYTES = 50_000_000
ROUNDS = 3
QUERIES = 200
PUSH_GOAL = 1.5  # of adb's own time: adb pushes from C++, with compression where the device knows it
CHECK_GOAL = 3.0  # of the runner's time, in which the host's run, hashing, judging and cleaning up must fit


def run() -> list[dict[str, object]]:
    """``{name, ratio, against, goal, better}``; nothing where QEMU or adb is not installed."""
    if shutil.which("qemu-system-aarch64") is None or shutil.which("adb") is None:
        return []
    try:
        return [*_transfers(), _whole_check()]
    finally:
        emulated.stop(NAME)


def _transfers() -> list[dict[str, object]]:
    device = emulated.EmulatedDevice(NAME)
    data, remote = os.urandom(SIZE_BYTES), f"{BASE}/bench"
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "data"
        local.write_bytes(data)
        adb = ["adb", "-s", device.serial]
        pairs: dict[str, tuple[Callable[[], Any], list[str]]] = {
            "push": (lambda: device.push(data, remote), [*adb, "push", str(local), remote]),
            "pull": (lambda: device.pull(remote, limit_bytes=SIZE_BYTES), [*adb, "pull", remote, str(local)]),
        }
        found: list[dict[str, object]] = []
        for name, (ours, theirs) in pairs.items():
            ratios = []
            for _ in range(ROUNDS):
                peer = _seconds(lambda argv=theirs: subprocess.run(argv, check=True, capture_output=True))  # type: ignore[misc]
                ratios.append(_seconds(ours) / peer)
            found.append(
                {
                    "name": f"{name} of {SIZE_BYTES / 1e6:.0f} MB, emulated device: seconds",
                    "ratio": round(statistics.median(ratios), 3),
                    "against": f"adb {name}",
                    "goal": PUSH_GOAL,
                    "better": "lower",
                }
            )
    device.run(("rm", "-f", remote), timeout_s=30)
    return found


def _whole_check() -> dict[str, object]:
    """One cell of 200 queries, against the seconds that the runner itself reports for it."""
    from PIL import Image

    bundle = open_bundle(GOLDEN / "small.hetero")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label in range(QUERIES // 4):
            (folder / "pictures" / f"{label:03d}").mkdir(parents=True)
            for number in range(4):
                picture = Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8))
                picture.save(folder / "pictures" / f"{label:03d}" / f"{number}.png")
        files = sorted((folder / "pictures").rglob("*.png"))
        vectors = rng.normal(size=(len(files), bundle.manifest.output.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        items = [Item(str(file), index // 4, file.parent.name) for index, file in enumerate(files)]
        facts = {"space_id": bundle.space.id, "model_weights_sha256": "0" * 64, "dataset": "noise"}
        write_gallery(folder / "gallery", vectors, items, **facts)
        gallery = open_gallery(folder / "gallery")
        queries = load_queries(folder / "pictures", gallery, bundle.manifest.preprocess, count=QUERIES)
        emulated.EmulatedDevice(NAME)  # booted before the clock starts
        start = time.perf_counter()
        checked = run_check(
            bundle,
            gallery,
            queries,
            {"emulator": lambda: emulated.EmulatedDevice(NAME)},
            folder / "out",
            cells=choose_cells(bundle),
            settings=Settings(),
        )
        seconds = time.perf_counter() - start
        [cell] = checked.report.cells
        timed = cell.latency_ms
        if timed is None:
            raise RuntimeError(f"the check ran nothing: {cell.reasons}")
        runner = (sum(timed.each) + (timed.load or 0)) / 1000
    return {
        "name": f"a check of one file on {QUERIES} queries, emulated device: seconds",
        "ratio": round(seconds / runner, 3),
        "against": f"loading and embedding on the device, {runner:.1f} s",
        "goal": CHECK_GOAL,
        "better": "lower",
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.stdout.write(f"{run()}\n")

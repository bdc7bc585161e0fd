"""``python -m benchmarks.joint_table CONFIG [EPOCHS]``: a config's first student, together and one by one.

Trains it under up to eight names, and prints the Markdown table of what k students in one run cost, against k runs of
one student each, and what they find on average.
The config's gallery model must be trained already (``gallery.checkpoint``). Every run is a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hetero.config import RunConfig, load_config

COUNTS = (1, 2, 4, 8)
THREADS = 1


@dataclass(frozen=True)
class Trained:
    """What a run cost, in seconds of the clock and of the processor, and each student's R@1 in the gallery."""

    wall_s: float
    cpu_s: float
    r_at_1: dict[str, float]


def main(path: Path, epochs: int) -> None:
    """Print the table as it comes."""
    config = load_config(path)
    names = [f"s{number}" for number in range(1, max(COUNTS) + 1)]
    print("| k | Together: wall, CPU | One by one: wall, CPU | Wall, ratio | CPU, ratio | Mean R@1 of both |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        alone = [trained(_with_students(config, [name], epochs), Path(folder) / name) for name in names]
        for count in COUNTS:
            together = trained(_with_students(config, names[:count], epochs), Path(folder) / f"together-{count}")
            wall, cpu = (sum(getattr(one, key) for one in alone[:count]) for key in ("wall_s", "cpu_s"))
            mean = sum(together.r_at_1.values()) / count
            apart = sum(one.r_at_1[name] for one, name in zip(alone, names[:count], strict=False)) / count
            print(
                f"| {count} | {together.wall_s:.0f} s, {together.cpu_s:.0f} s | {wall:.0f} s, {cpu:.0f} s "
                f"| {together.wall_s / wall:.2f} | {together.cpu_s / cpu:.2f} | {mean:.4f}, {apart:.4f} |",
                flush=True,
            )


def trained(config: RunConfig, out: Path) -> Trained:
    """Train and score it in processes of their own; the costs are of training alone."""
    source = out.with_suffix(".yaml")
    source.write_text(config.to_yaml(), encoding="utf-8")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _hetero("train", source, "--out", out, "--threads", THREADS)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    _hetero("compat", out)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    found = {one["name"]: one["cells"]["heterogeneous"]["r_at_1"]["value"] for one in report["students"]}
    return Trained(wall, cpu, found)


def _with_students(config: RunConfig, names: list[str], epochs: int) -> RunConfig:
    first = config.students[0]
    students = tuple(first.model_copy(update={"name": name}) for name in names)
    training = config.student_training
    assert training is not None
    return config.model_copy(
        update={
            "students": students,
            "student_training": training.model_copy(update={"epochs": epochs}),
            "evaluation": config.evaluation.model_copy(update={"matrix": False, "rotations": 0}),
        }
    )


def _hetero(*arguments: object) -> None:
    command = [sys.executable, "-m", "hetero.cli", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: trained, and a check does not hold after so few steps
        raise SystemExit(done.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)

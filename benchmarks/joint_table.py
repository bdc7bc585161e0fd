"""``python -m benchmarks.joint_table CONFIG STUDENT EPOCHS [KEY=VALUE ...]``: one student, together and one by one.

Trains it under up to eight names, and prints the Markdown table of what k students in one run cost, against k runs of
one student each, and what they find on average. The config's gallery model must be trained already:
``'gallery={checkpoint: runs/NAME/gallery}'`` says where. Every run is a process of its own, on one thread.
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
from hetero.errors import nearest

COUNTS = (1, 2, 4, 8)
THREADS = 1


@dataclass(frozen=True)
class Trained:
    """What a run cost, in seconds of the clock and of the processor, and what each student reaches in the gallery.

    Attributes:
        scores: R@1 and mAP@R by student.
    """

    wall_s: float
    cpu_s: float
    scores: dict[str, tuple[float, float]]


def main(path: Path, student: str, epochs: int, overrides: list[str]) -> None:
    """Print the table as it comes."""
    config = load_config(path, overrides)
    names = [f"s{number}" for number in range(1, max(COUNTS) + 1)]
    print("| k | Together: wall, CPU | One by one: wall, CPU | Ratio: wall, CPU | R@1 / mAP@R together | One by one |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        alone = [trained(_of(config, student, [name], epochs), Path(folder) / name) for name in names]
        for count in COUNTS:
            together = trained(_of(config, student, names[:count], epochs), Path(folder) / f"together-{count}")
            wall, cpu = (sum(getattr(one, key) for one in alone[:count]) for key in ("wall_s", "cpu_s"))
            apart = [one.scores[name] for one, name in zip(alone, names[:count], strict=False)]
            print(
                f"| {count} | {together.wall_s:.0f} s, {together.cpu_s:.0f} s | {wall:.0f} s, {cpu:.0f} s "
                f"| {together.wall_s / wall:.2f}, {together.cpu_s / cpu:.2f} "
                f"| {_mean(list(together.scores.values()))} | {_mean(apart)} |",
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
    cells = {one["name"]: one["cells"]["heterogeneous"] for one in report["students"]}
    found = {name: (cell["r_at_1"]["value"], cell["map_at_r"]["value"]) for name, cell in cells.items()}
    return Trained(wall, cpu, found)


def _mean(scores: list[tuple[float, float]]) -> str:
    return " / ".join(f"{sum(column) / len(scores):.4f}" for column in zip(*scores, strict=True))


def _of(config: RunConfig, student: str, names: list[str], epochs: int) -> RunConfig:
    """The config with one of its students alone, as often as there are names."""
    known = {one.name: one for one in config.students}
    if student not in known:
        raise SystemExit(f"there is no student {student!r}; expected {nearest(student, known)}")
    chosen = known[student]
    students = tuple(chosen.model_copy(update={"name": name}) for name in names)
    training = config.student_training
    assert training is not None
    return config.model_copy(
        update={
            "students": students,
            "student_training": training.model_copy(update={"epochs": epochs}),
            "evaluation": config.evaluation.model_copy(update={"matrix": False, "rotations": 0, "resamples": 100}),
        }
    )


def _hetero(*arguments: object) -> None:
    command = [sys.executable, "-m", "hetero.cli", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: trained, and a check does not hold after so few steps
        raise SystemExit(done.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
